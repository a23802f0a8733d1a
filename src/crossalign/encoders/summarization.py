"""Multi-view summarisation: the regions of an image, weighted in several ways, make several vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.errors import CrossAlignError
from crossalign.masking import RealUnits, at_least_float32

__all__ = ["MultiViewSummarization", "summarize"]


def summarize(units: Tensor, logits: Tensor, mask: Tensor) -> Tensor:
    """Views ``(B, V, D)``: sums of units ``(B, N, D)`` weighted by a softmax over the real ones.

    Args:
        units: ``(B, N, D)``, numbers at padded units, too.
        logits: ``(B, N, V)``.
        mask: ``(B, N)`` bool, true where a unit is real.

    Returns:
        Zero for an item without real units.
    """
    padded = ~mask.unsqueeze(-1)
    logits = at_least_float32(logits)
    # The lowest finite value: an item without real units stays free of NaN on its way to zero.
    weights = (
        logits.masked_fill(padded, torch.finfo(logits.dtype).min).softmax(dim=1).masked_fill(padded, 0.0)
    )
    return torch.bmm(weights.transpose(1, 2).to(units.dtype), units)


class MultiViewSummarization(nn.Module):
    """How much each region counts in each view, from convolutions over the sequence of regions.

    Seven convolutions (one of kernel 1, three each of kernels 3 and 5 with dilations 1, 2, 3) stand side by
    side; a linear map makes one logit a view. CAMERA (Qu et al., ACM MM 2020). The regions of an
    image are neighbours in the order in which they come; padded ones do not come between them.

    Args:
        dim: D, width of the regions.
        views: V.
        channels: outputs of each convolution; the first has twice as many.

    Raises:
        CrossAlignError: a size is not positive.
    """

    def __init__(self, dim: int, views: int = 12, channels: int = 128) -> None:
        super().__init__()
        if views < 1 or channels < 1:
            raise CrossAlignError(f"summarisation: {views} views, {channels} channels; give positive numbers")
        shapes = [(1, 1), *((kernel, dilation) for kernel in (3, 5) for dilation in (1, 2, 3))]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(
                dim, 2 * channels if kernel == 1 else channels, kernel, dilation=dilation, padding="same"
            )
            for kernel, dilation in shapes
        )
        self.views = nn.Linear(8 * channels, views)

    def forward(self, units: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits ``(B, N, V)`` of units ``(B, N, D)`` with mask ``(B, N)``; zero at padded units."""
        real = RealUnits.of(units, mask)
        return real.unpack(self.logits(real.pack(units), real))

    def logits(self, rows: Tensor, real: RealUnits) -> Tensor:
        """Logits ``(M, V)`` of packed units ``(M, D)``."""
        front = real.in_front()
        sequence = front.unpack(rows).transpose(1, 2).contiguous()
        seen = torch.cat([convolution(sequence).relu() for convolution in self.convolutions], dim=1)
        # As a convolution the linear map need not turn the wide (B, 8 * channels, N) around first.
        logits = F.conv1d(seen, self.views.weight.unsqueeze(2), self.views.bias)
        return front.pack(logits.transpose(1, 2))
