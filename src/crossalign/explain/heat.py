"""Heat maps: how similar a word is to each part of a picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from crossalign.drawing import Colour

__all__ = ["heat_colours", "heat_legend", "heat_map", "heat_over_photo"]

_SIDE = 128
_DARKEST = 100  # what black of the photo becomes under the colours
_SHARE = 0.7
# From dark blue to yellow: rises steadily in lightness, so that it reads without seeing the hues.
_SCALE: tuple[Colour, ...] = (
    (24, 26, 84),
    (49, 68, 142),
    (33, 120, 146),
    (62, 170, 122),
    (158, 209, 78),
    (252, 231, 54),
)


def heat_map(similarity: Tensor, boxes: Tensor, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """How similar a word is to each place of a picture, from 0 (its least similar region) to 1 (its most similar).

    A place has the value of the most similar region that covers it, 0 where there is none. Edges between regions
    are softened.

    Args:
        similarity: ``(R,)``.
        boxes: ``(R, 4)`` relative xyxy boxes.
        size: width and height of the picture.

    Returns:
        ``(h, w)`` of the picture's proportions, at most 128 a side.
    """
    scale = _SIDE / max(size)
    width, height = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    low, high = similarity.min(), similarity.max()
    values = ((similarity - low) / (high - low).clamp_min(1e-9)).tolist()
    heat = np.zeros((height, width), np.float32)
    sides = []
    for value, (left, top, right, bottom) in zip(values, boxes.tolist(), strict=True):
        x0, x1 = _pixels(left, right, width)
        y0, y1 = _pixels(top, bottom, height)
        part = heat[y0:y1, x0:x1]
        np.maximum(part, value, out=part)
        sides.append(min(x1 - x0, y1 - y0))
    # Little enough that the smallest region keeps its value. Pillow blurs eight bits only, which the eye does not see.
    picture = Image.fromarray((255 * heat).round().astype(np.uint8))
    softened = picture.filter(ImageFilter.GaussianBlur(min(sides) / 5))
    return np.asarray(softened, np.float32) / np.float32(255)


def _pixels(low: float, high: float, count: int) -> tuple[int, int]:
    """First and last-plus-one pixel of a relative range, at least one pixel."""
    first = min(max(round(low * count), 0), count - 1)
    return first, max(min(round(high * count), count), first + 1)


def heat_colours(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Values in [0, 1] to colours: ``(...)`` to ``(..., 3)``."""
    places = np.linspace(0, 1, len(_SCALE))
    channels = [np.interp(heat, places, [colour[channel] for colour in _SCALE]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def heat_legend(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Colours as they are over a photo of middle grey: ``(...)`` to ``(..., 3)``."""
    grey = (_DARKEST + 255) / 2
    return (_SHARE * heat_colours(heat) + (1 - _SHARE) * grey).round().astype(np.uint8)


def heat_over_photo(photo: Image.Image, heat: npt.NDArray[np.float32]) -> Image.Image:
    """The photo without its own colours under those of the heat map, in the photo's size.

    The photo is paled, so that a colour is about the same on its dark and on its bright places.
    """
    grey = ImageOps.autocontrast(photo.convert("L"), cutoff=1)
    pale = grey.point([round(_DARKEST + (255 - _DARKEST) * level / 255) for level in range(256)])
    colours = Image.fromarray(heat_colours(heat)).resize(photo.size, Image.Resampling.BILINEAR)
    return Image.blend(pale.convert("RGB"), colours, _SHARE)
