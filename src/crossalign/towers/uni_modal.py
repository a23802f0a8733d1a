"""The uni-modal head: a second embedding of a tower, for images among images or texts among texts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossalign.normalization import unit_norm
from crossalign.towers.projection import orthonormal

__all__ = ["UniModalHead"]


class UniModalHead(nn.Module):
    """Layer normalisation and a linear map of a tower's base embedding, then unit norm; an inner product is a cosine.

    CUSA (Huang et al., AAAI 2024), section 3.4. An image of several views goes in as their mean, so that every view has
    a part in it. The map begins as the identity, or as random orthonormal rows or columns where it changes the width:
    cosines begin near those of the base embedding. Nothing is drawn for it from the global generator, so a model's
    other weights are those it would have without the head.

    Args:
        dim: D, width of the base embedding.
        size: E, width of what comes out.
    """

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        # Left uninitialised: an initialisation that is overwritten would still draw numbers.
        self.linear = nn.utils.skip_init(nn.Linear, dim, size)
        generator = torch.Generator().manual_seed(0)
        start = orthonormal(size, dim, generator) if size <= dim else orthonormal(dim, size, generator).T
        with torch.no_grad():
            self.linear.weight.copy_(start)
            self.linear.bias.zero_()

    def forward(self, base: Tensor) -> Tensor:
        """Base embeddings ``(B, D)`` or ``(B, V, D)`` to ``(B, E)``, at least in float32."""
        if base.dim() == 3:
            base = base.mean(dim=1)
        return unit_norm(self.linear(self.norm(base)))
