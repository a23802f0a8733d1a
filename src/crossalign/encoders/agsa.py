"""Adaptive gating self-attention: units look at each other through gates that doubt queries and keys."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.errors import CrossAlignError
from crossalign.masking import RealUnits
from crossalign.normalization import batch_norm

__all__ = ["AdaptiveGatingSelfAttention"]


class AdaptiveGatingSelfAttention(nn.Module):
    """Multi-head self-attention whose queries and keys are gated by what both say; residual, batch-normalised.

    With queries q and keys k of a head, the gates are ``sigmoid(W (A q * B k))``, one half for q, one for k;
    A, B and W are shared by the heads. CAMERA (Qu et al., ACM MM 2020).

    Args:
        dim: D, width of the units.
        heads: number of heads, a divisor of D.
        dropout: probability of dropping an attention weight, and a feature of what is added to a unit.

    Raises:
        CrossAlignError: the heads do not divide the width.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise CrossAlignError(
                f"self-attention: {heads} heads do not divide the width {dim}; give a divisor"
            )
        self.heads = heads
        width = dim // heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.gate_query = nn.Linear(width, width)
        self.gate_key = nn.Linear(width, width)
        self.gate = nn.Linear(width, 2 * width)
        self.norm = nn.BatchNorm1d(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, units: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Units ``(B, N, D)`` in context, zero at padded ones.

        Args:
            units: ``(B, N, D)``.
            mask: ``(B, N)`` bool, true where a unit is real; ``None``: all of them.
            positions: ``(B, N, D)`` gates on what the attention sees of the units.
        """
        real = RealUnits.of(units, mask)
        gates = None if positions is None else real.pack(positions)
        return real.unpack(self.attend(real.pack(units), real, mask, gates))

    def attend(self, rows: Tensor, real: RealUnits, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        """The layer on packed units ``(M, D)`` with packed ``positions`` ``(M, D)``."""
        seen = rows if positions is None else rows * positions
        query, key, value = (
            part(seen).unflatten(1, (self.heads, -1)) for part in (self.query, self.key, self.value)
        )
        of_query, of_key = self.gate(self.gate_query(query) * self.gate_key(key)).sigmoid().chunk(2, dim=-1)
        query, key, value = (
            real.unpack(part.flatten(1)).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (query * of_query, key * of_key, value)
        )
        visible = None
        if mask is not None and real.positions is not None:
            # An item without real units sees its padding, and nobody reads it: not every implementation of the
            # attention gives numbers to rows that see nothing.
            visible = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]
        dropout = self.dropout.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
        packed = real.pack(attended.transpose(1, 2).flatten(2))
        return rows + self.dropout(batch_norm(self.norm, packed))
