"""Make the pictures of the documentation from a demo: python docs/make_images.py demo"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from crossalign.data.photos import open_photo
from crossalign.errors import CrossAlignError
from crossalign.explain.correspondence import correspond
from crossalign.explain.of_model import encode_photo_and_caption
from crossalign.explain.overlay import draw_correspondence
from crossalign.model import RetrievalModel
from crossalign.search import SearchEngine, contact_sheet

IMAGES = Path(__file__).with_name("images")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUERY = "a large red crescent above a small purple triangle"
EXPLAINED = "test-00113"
CAPTION = "On a speckled surface, a yellow ball lies down and to the left of a large blue love heart."


def save_small(picture: Image.Image, path: Path) -> None:
    """Write a PNG with a palette: these pictures have few colours, and a repository keeps every byte for ever."""
    picture.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2).save(
        path, optimize=True
    )
    print(f"{path}: {path.stat().st_size // 1000} kB")


def search_picture(demo: Path) -> Image.Image:
    """The contact sheet of one search."""
    with SearchEngine.open(demo / "index") as engine:
        hits = engine.search_text(QUERY, 5)
        return contact_sheet(hits, QUERY, note=f"{len(hits)} of {engine.count:,} scenes")


def explained_picture(demo: Path) -> Image.Image:
    """Which words of a caption chose which cells of its scene."""
    model = RetrievalModel.from_pretrained(demo / "run")
    photo = open_photo(demo / "scenes" / "images" / f"{EXPLAINED}.png")
    found = correspond(encode_photo_and_caption(model, photo, CAPTION), units="context")
    return draw_correspondence(photo, found)


def report_picture(demo: Path) -> Image.Image:
    """The top of the report, as a browser shows it."""
    browser = next((name for name in BROWSERS if shutil.which(name)), None)
    if browser is None:
        raise CrossAlignError(
            f"no browser to photograph the report with; install one of {', '.join(BROWSERS)}"
        )
    with tempfile.TemporaryDirectory() as place:
        picture = Path(place) / "report.png"
        page = (demo / "report.html").resolve().as_uri()
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1200,1250"]
        subprocess.run([browser, *options, f"--screenshot={picture}", page], check=True, capture_output=True)
        return Image.open(picture).convert("RGB")


def main() -> None:
    """Make them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="folder that 'crossalign demo' made")
    demo = parser.parse_args().demo
    IMAGES.mkdir(exist_ok=True)
    save_small(search_picture(demo), IMAGES / "search.png")
    save_small(explained_picture(demo), IMAGES / "explain.png")
    save_small(report_picture(demo), IMAGES / "report.png")


if __name__ == "__main__":
    main()
