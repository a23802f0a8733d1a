"""The linear map that brings an enriched embedding of 3 D numbers to a width of choice."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.masking import at_least_float32

__all__ = ["EmbeddingProjection", "orthonormal", "starting_map"]


class EmbeddingProjection(nn.Module):
    """Enriched embeddings ``(..., 3 D)`` to ``(..., E)``, in float32 also under autocast, as similarities are.

    Without a bias: it would only add the same to the scores of all images, or of all texts.

    Args:
        dim: D, joint width.
        size: E, at most 3 D.
    """

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(starting_map(dim, size))

    def forward(self, embedding: Tensor) -> Tensor:
        """Not normalised again: the inner product of two results stands for that of what was given."""
        with torch.autocast(embedding.device.type, enabled=False):
            return F.linear(at_least_float32(embedding), self.weight)


def starting_map(dim: int, size: int) -> Tensor:
    """The map ``(E, 3 D)`` that both towers start from, so that inner products are about those before it.

    The first D numbers, the base embedding, come first. They pass unchanged where there is room for them: the base
    similarity is exact then, and training begins where the base model would. Random orthonormal maps take the rest:
    the base embedding where E is below D, scaled to keep its inner products in the mean; the context vectors where E
    is above D. Those are not scaled: few numbers that stand for many would add more noise to the base similarity than
    they tell. With E = D the map begins without context vectors, whose columns have a gradient from the first step
    on, and with E = 3 D it is the identity.

    Both towers have to draw the same map, whatever was drawn before, hence the generator of its own.
    """
    generator = torch.Generator().manual_seed(0)
    if size < dim:
        base, tail = math.sqrt(dim / size) * orthonormal(size, dim, generator), torch.empty(0, 2 * dim)
    else:
        base, tail = torch.eye(dim), orthonormal(size - dim, 2 * dim, generator)
    return torch.block_diag(base, tail)


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random rows ``(rows, columns)`` of unit norm at right angles; the identity where it is square."""
    if rows == columns:
        return torch.eye(rows)
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator)).Q.T.contiguous()
