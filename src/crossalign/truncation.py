"""The first numbers of an embedding in place of all: what training, evaluation and index mean by a width."""

from __future__ import annotations

import torch
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.masking import at_least_float32

__all__ = ["check_width", "truncate", "width_of_share"]

_TINY = 1e-12


def truncate(embedding: Tensor, width: int, parts: int = 1) -> Tensor:
    """Embeddings ``(..., D)`` cut to ``(..., width)``, at least in float32; at full width they stay as they are.

    An embedding of several parts holds vectors that are each matched with one of the other side, so each of them is
    cut to its first ``width / parts`` numbers. What is left of a part is scaled to the norm that the whole part had: a
    unit vector is one again, and vectors whose norm carries a weight, as those of a context head do, keep it. So
    scores have the same scale at every width. What is left may be all zeros; it stays so.

    Matryoshka representation learning (Kusupati et al., NeurIPS 2022) trains embeddings for it.

    Raises:
        CrossAlignError: a width that the embedding does not have, or that does not divide into the parts.
    """
    check_width(width, embedding.shape[-1], parts)
    embedding = at_least_float32(embedding)
    if width == embedding.shape[-1]:
        return embedding
    whole = embedding.unflatten(-1, (parts, -1))
    left = whole[..., : width // parts]
    norm = torch.linalg.vector_norm(left, dim=-1, keepdim=True)
    scale = torch.linalg.vector_norm(whole, dim=-1, keepdim=True) / norm.clamp_min(_TINY)
    # Without the choice, the gradient of what is left of zeros would be as large as 1 / _TINY.
    return (left * torch.where(norm > _TINY, scale, torch.ones_like(scale))).flatten(-2)


def check_width(width: int, whole: int, parts: int = 1) -> None:
    """Refuse a width to which embeddings of ``whole`` numbers in ``parts`` cannot be cut.

    Raises:
        CrossAlignError: it is no multiple of ``parts`` from ``parts`` to ``whole``.
    """
    if 0 < width <= whole and width % parts == 0:
        return
    if parts == 1:
        raise CrossAlignError(f"width {width}: the embedding has {whole} numbers; give 1 to {whole}")
    raise CrossAlignError(
        f"width {width}: the embedding has {whole} numbers in {parts} parts, which are cut alike; give a multiple of "
        f"{parts} up to {whole}"
    )


def width_of_share(share: float, whole: int, parts: int = 1) -> int:
    """The width nearest to a share of the whole that divides into the parts."""
    return parts * max(1, round(share * whole / parts))
