"""What evaluation accepts as embeddings, and the refusals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike

from crossalign.errors import CrossAlignError
from crossalign.evaluation.metrics import check_owner

__all__ = ["Embeddings", "check_inputs", "numpy_embeddings", "pieces"]

Embeddings = torch.Tensor | np.ndarray

_LARGEST_SCORE = 1e37
"""Scores must stay clear of the largest float32, 3.4e38."""


def pieces(count: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover ``range(count)`` in order."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def numpy_embeddings(values: Embeddings) -> np.ndarray:
    """The values as a NumPy array on the CPU, copied only where needed; bfloat16 becomes float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def _norms(values: np.ndarray, what: str) -> np.ndarray:
    """An upper bound, at most a hundredth too large, of the largest norm over each item's views: ``(B,)``."""
    norms = np.empty(len(values))
    precision = np.promote_types(values.dtype, np.float32)
    for piece in pieces(len(values), 256):
        part = values[piece]
        squares = np.einsum("bvd,bvd->bv", part, part, dtype=precision).max(axis=1).astype(np.float64)
        small = squares < 2.0**-60  # some may have been too small for float32
        if small.any():
            part = part[small].astype(np.float64)
            squares[small] = np.einsum("bvd,bvd->bv", part, part).max(axis=1)
        norms[piece] = 1.005 * np.sqrt(squares)
    if not np.isfinite(norms).all():
        damaged = np.flatnonzero([not np.isfinite(row).all() for row in values])
        if not len(damaged):
            raise CrossAlignError(f"{what} embeddings are too large for float32 scores; normalise them")
        raise CrossAlignError(
            f"{what} embeddings: {len(damaged)} of {len(values)} rows hold NaN or infinite values"
            f" (the first is row {damaged[0]}); check the model and its inputs"
        )
    return norms


def check_inputs(
    image: Embeddings, text: Embeddings, image_of_text: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images ``(B, V, D)``, texts ``(C, D)``, each text's image ``(C,)``, and both sides' norms.

    Raises:
        CrossAlignError: shapes that do not fit, a type that is not floating point, NaN or infinite values, a
            position outside the images, an image without a caption.
    """
    images, texts = numpy_embeddings(image), numpy_embeddings(text)
    if (
        images.ndim not in (2, 3)
        or texts.ndim != 2
        or images.shape[-1] != texts.shape[1]
        or 0 in images.shape
    ):
        raise CrossAlignError(
            "embeddings must be images (B, D) or (B, V, D) and texts (C, D) of the same width,"
            f" found {images.shape} and {texts.shape}"
        )
    for what, values in (("image", images), ("text", texts)):
        if values.dtype not in (np.float16, np.float32, np.float64):
            raise CrossAlignError(f"{what} embeddings must be floating point numbers, found {values.dtype}")
    owner = check_owner(image_of_text, len(images), len(texts))
    images = images.reshape(len(images), -1, images.shape[-1])
    image_norms, text_norms = _norms(images, "image"), _norms(texts[:, None], "text")
    if image_norms.max() * text_norms.max() > _LARGEST_SCORE:
        raise CrossAlignError(
            f"embeddings are too large for float32 scores (norms up to {image_norms.max():.3g} and"
            f" {text_norms.max():.3g}); normalise them"
        )
    return images, texts, owner, image_norms, text_norms
