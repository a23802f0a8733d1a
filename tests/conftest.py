"""Places and small photos that tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def _shared(variable: str) -> Path:
    """The folder that the environment variable names."""
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set: it names a folder of real photos or weights")
    folder = Path(os.environ[variable])
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set {variable} to another place")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photos and captions."""
    return _shared("CROSSALIGN_DATA")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Real pretrained weights."""
    return _shared("CROSSALIGN_WEIGHTS")


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
