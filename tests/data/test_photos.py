"""Reading photos: the right way up, in eight bits, or one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossalign.data.photos import open_photo
from crossalign.errors import CrossAlignError

RAMP = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)


def test_sixteen_bits_become_eight_without_clipping(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "deep.png")
    shown = np.asarray(open_photo(tmp_path / "deep.png"))
    assert shown.shape == (8, 8, 3)
    np.testing.assert_array_equal(shown[..., 0], RAMP >> 8)
    np.testing.assert_array_equal(np.asarray(open_photo(RAMP)), shown)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "LA", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert open_photo(Image.new("RGB", (5, 4), (200, 10, 10)).convert(mode)).mode == "RGB"


def test_the_camera_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (6, 4))
    picture.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    picture.save(tmp_path / "turned.png", exif=exif)
    opened = open_photo(tmp_path / "turned.png")
    assert opened.size == (4, 6)
    assert opened.getpixel((3, 0)) == (255, 255, 255)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_damaged_photo_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(CrossAlignError, match=r"bad\.png: not a readable photo"):
        open_photo(tmp_path / "bad.png")


def test_a_cut_photo_is_named(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        tmp_path / "c.jpg"
    )
    data = (tmp_path / "c.jpg").read_bytes()
    (tmp_path / "c.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(CrossAlignError, match=r"c\.jpg: not a readable photo"):
        open_photo(tmp_path / "c.jpg")
