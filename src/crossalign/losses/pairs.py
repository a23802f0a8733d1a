"""Which items of a batch show the same image, and so are never negatives of each other."""

from __future__ import annotations

import torch
from torch import Tensor

from crossalign.errors import CrossAlignError

__all__ = ["image_names", "same_image", "square"]


def square(scores: Tensor) -> int:
    """The batch size B of a score matrix ``(B, B)``.

    Raises:
        CrossAlignError: the matrix is not square.
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise CrossAlignError(
            f"scores have shape {tuple(scores.shape)}; a loss over matched pairs needs a square matrix (B, B)"
        )
    return scores.shape[0]


def image_names(batch: int, image_ids: Tensor | None, device: torch.device) -> Tensor:
    """The ``image_ids`` ``(B,)`` of a batch on ``device``, or ids that all differ where there are none.

    Raises:
        CrossAlignError: there is not one id a pair.
    """
    if image_ids is None:
        return torch.arange(batch, device=device)
    if image_ids.shape != (batch,):
        raise CrossAlignError(
            f"image ids have shape {tuple(image_ids.shape)} for a batch of {batch} pairs; give one id a pair"
        )
    return image_ids.to(device)


def same_image(batch: int, image_ids: Tensor | None, device: torch.device) -> Tensor:
    """``(B, B)`` bool: true on the diagonal and where two pairs have equal ``image_ids`` ``(B,)``.

    Raises:
        CrossAlignError: there is not one id a pair.
    """
    names = image_names(batch, image_ids, device)
    return names.unsqueeze(1) == names
