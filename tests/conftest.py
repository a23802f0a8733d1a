"""Places and small photos that tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (50, 70, 200), "yellow": (220, 200, 50)}


@dataclass(frozen=True)
class TinyPhotos:
    """A folder of small photos, the size of each in pixels, and what each one shows."""

    folder: Path
    sizes: dict[str, tuple[int, int]]
    captions: dict[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.sizes)


def _shared(variable: str, name: str) -> Path:
    """The folder that the environment variable names, or ../shared/<name> beside the repository."""
    folder = Path(os.environ[variable]) if variable in os.environ else REPOSITORY.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set {variable} to the folder of shared {name}")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photos and captions (CROSSALIGN_DATA, or ../shared/data beside the repository)."""
    return _shared("CROSSALIGN_DATA", "data")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Real pretrained weights (CROSSALIGN_WEIGHTS, or the sibling of the shared data)."""
    if "CROSSALIGN_WEIGHTS" not in os.environ and "CROSSALIGN_DATA" in os.environ:
        beside = Path(os.environ["CROSSALIGN_DATA"]).resolve().parent / "weights"
        if beside.is_dir():
            return beside
    return _shared("CROSSALIGN_WEIGHTS", "weights")


@pytest.fixture
def tiny_photos(tmp_path: Path) -> Callable[..., TinyPhotos]:
    """A factory: ``tiny_photos(count=6)`` writes that many small JPEG and PNG photos, each with captions.

    Photo ``i`` is a coloured square on noise, is a JPEG when ``i`` is even and a PNG when odd, and has
    ``1 + i % 3`` captions, so that the counts are unequal.
    """

    def make(count: int = 6, folder: Path | None = None) -> TinyPhotos:
        place = tmp_path / "photos" if folder is None else folder
        place.mkdir(parents=True, exist_ok=True)
        sizes: dict[str, tuple[int, int]] = {}
        captions: dict[str, tuple[str, ...]] = {}
        colours = list(COLOURS)
        for index in range(count):
            random = np.random.default_rng(index)
            width, height = 24 + 4 * (index % 5), 20 + 3 * (index % 4)
            pixels = random.integers(0, 60, (height, width, 3), dtype=np.uint8)
            colour = colours[index % len(colours)]
            pixels[4:14, 5 : 15 + index % 4] = COLOURS[colour]
            name = f"photo{index:03d}.{'jpg' if index % 2 == 0 else 'png'}"
            Image.fromarray(pixels).save(place / name)
            sizes[name] = (width, height)
            captions[name] = tuple(
                f"A {colour} square on a dark ground, view {index}, sentence {k}."
                for k in range(1 + index % 3)
            )
        return TinyPhotos(place, sizes, captions)

    return make
