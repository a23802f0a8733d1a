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
        return Image.fromarray(image).convert("RGB")
    if isinstance(image, Image.Image):
        return ImageOps.exif_transpose(image).convert("RGB")
    try:
        with Image.open(image) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except FileNotFoundError:
        raise CrossAlignError(f"{image}: no such photo") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CrossAlignError(f"{image}: not a readable photo ({error})") from None
