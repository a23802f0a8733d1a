"""The diversity loss: the views of an image should weigh its regions differently."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.errors import CrossAlignError
from crossalign.masking import at_least_float32

__all__ = ["DiversityLoss", "diversity_loss"]


def diversity_loss(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared distance between the cosines of an image's views and the identity.

    A view is the column of logits over the image's regions. CAMERA (Qu et al., ACM MM 2020).
    Computed in float32 (float64 for float64 inputs), also under autocast.

    Args:
        logits: ``(B, N, V)``, the summarisation's logits, before their softmax.
        mask: ``(B, N)`` bool, true where a region is real; ``None``: all of them.

    Returns:
        ``(B,)``; zero for an image without real regions.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = at_least_float32(logits)
        if mask is not None:
            logits = logits.masked_fill(~mask.unsqueeze(-1), 0.0)
        columns = F.normalize(logits, dim=1)
        cosines = torch.bmm(columns.transpose(1, 2), columns)
        identity = torch.eye(logits.shape[2], dtype=logits.dtype, device=logits.device)
        distances = (cosines - identity).square().sum(dim=(1, 2))
        return distances if mask is None else distances.masked_fill(~mask.any(dim=1), 0.0)


class DiversityLoss(nn.Module):
    """The diversity loss of a batch.

    Args:
        reduction: ``"sum"`` over the images, as CAMERA's published code does beside a hinge that is summed as
            well (there with weight 0.01), or ``"mean"`` over the images that have a region.

    Raises:
        CrossAlignError: ``reduction`` is neither word.
    """

    def __init__(self, reduction: Literal["sum", "mean"] = "sum") -> None:
        super().__init__()
        if reduction not in ("sum", "mean"):
            raise CrossAlignError(f"reduction is '{reduction}'; choose 'sum' or 'mean'")
        self.reduction = reduction

    def forward(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of logits ``(B, N, V)`` with mask ``(B, N)``; a scalar."""
        distances = diversity_loss(logits, mask)
        if self.reduction == "sum":
            return distances.sum()
        counted = len(distances) if mask is None else mask.any(dim=1).sum().clamp(min=1)
        return distances.sum() / counted
