"""Reading one photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from crossalign.errors import CrossAlignError

__all__ = ["Photo", "open_photo"]

Photo = str | Path | Image.Image | np.ndarray


def open_photo(image: Photo) -> Image.Image:
    """An RGB picture the right way up.

    Raises:
        CrossAlignError: the file is missing or no readable picture.
    """
    if isinstance(image, np.ndarray):
        return _rgb(Image.fromarray(image))
    if isinstance(image, Image.Image):
        return _rgb(ImageOps.exif_transpose(image))
    try:
        with Image.open(image) as file:
            return _rgb(ImageOps.exif_transpose(file))
    except FileNotFoundError:
        raise CrossAlignError(f"{image}: no such photo; put it back, or correct the path") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CrossAlignError(f"{image}: not a readable photo ({error})") from None


def _rgb(image: Image.Image) -> Image.Image:
    """Three channels of eight bits. Pillow itself cuts sixteen bits off at 255: nearly all white."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "I":
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return image.convert("RGB")
