"""One vector for an image or a text: its units weighted by how they fit their mean (SGRAF's self-attention)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossalign.errors import CrossAlignError
from crossalign.masking import RealUnits, masked_mean
from crossalign.scorers.normalisation import MaskedBatchNorm

__all__ = ["GlobalSummary", "xavier_linear"]


def xavier_linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer that starts as SGRAF's do: Xavier's uniform weights, bias zero."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class GlobalSummary(nn.Module):
    """A global vector of unit norm: units weighted by a softmax over their fit to the mean unit.

    The fit of unit x to the mean m is ``attention(tanh(norm(unit(x))) * tanh(norm(mean(m))))``. SGRAF (Diao et
    al., AAAI 2021), section 3.1 and its code, in which only images have the normalisations.

    Args:
        dim: D, width of the units.
        dropout: probability of dropping a feature of either factor.
        places: for images, the most units an item has: the units' batch normalisation has one channel a place, as
            published. ``None``: no normalisation, as for texts.
    """

    def __init__(self, dim: int, dropout: float = 0.4, places: int | None = None) -> None:
        super().__init__()
        self.unit = xavier_linear(dim, dim)
        self.mean = xavier_linear(dim, dim)
        # A bias would add the same to all units and so change nothing.
        self.attention = xavier_linear(dim, 1, bias=False)
        self.places = places
        self.unit_norm = None if places is None else MaskedBatchNorm(places)
        self.mean_norm = None if places is None else MaskedBatchNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, units: Tensor, mask: Tensor | None = None) -> Tensor:
        """Units ``(n, N, D)``, zero at padded ones, and mask ``(n, N)`` to ``(n, D)``; zero for items without any.

        Raises:
            CrossAlignError: more units than places.
        """
        if self.places is not None and units.shape[1] > self.places:
            raise CrossAlignError(
                f"SGRAF: found {units.shape[1]} regions an image where the scorer was made for at most "
                f"{self.places}; set its regions to the largest number in the data"
            )
        real = RealUnits.of(units, mask)
        keys = real.unpack(self.unit(real.pack(units)))
        guide = self.mean(masked_mean(units, mask))
        if self.unit_norm is not None and self.mean_norm is not None:
            present = None if mask is None else mask.any(dim=1, keepdim=True)
            keys = self.unit_norm(keys, mask)
            guide = self.mean_norm(guide.unsqueeze(2), present).squeeze(2)
        guide = self.dropout(guide.tanh()) * self.attention.weight
        fit = torch.bmm(self.dropout(keys.tanh()), guide.unsqueeze(2)).squeeze(2)
        if mask is not None:
            # Finite, so that an item without a real unit has finite gradients.
            fit = fit.masked_fill(~mask, torch.finfo(fit.dtype).min / 4)
        summary = torch.bmm(fit.softmax(dim=1).unsqueeze(1), units).squeeze(1)
        return summary * (summary.square().sum(dim=1, keepdim=True) + 1e-16).rsqrt()
