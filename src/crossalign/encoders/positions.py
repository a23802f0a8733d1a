"""Where regions stand in their photo, as gates on their features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossalign.masking import RealUnits, at_least_float32

__all__ = ["BoxPositions"]


class BoxPositions(nn.Module):
    """Gates in (0, 1) from the boxes of regions: a linear map of six numbers, then a sigmoid.

    The six: left and upper corner, width and height relative to the photo, the box's own width over its
    height in pixels, and its share of the photo's area. CAMERA (Qu et al., ACM MM 2020).

    Args:
        dim: D, width of the regions' features.
    """

    # A box flatter than this share of the photo counts as this high, so that its ratio stays a number.
    FLATTEST = 1e-3

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(6, dim)

    def forward(self, boxes: Tensor, mask: Tensor | None = None, aspect: Tensor | None = None) -> Tensor:
        """Gates ``(B, N, D)``, zero at padded units.

        Args:
            boxes: ``(B, N, 4)`` corners ``x0 y0 x1 y1`` relative to the photo, in ``[0, 1]``.
            mask: ``(B, N)`` bool, true where a region is real; ``None``: all of them.
            aspect: ``(B,)`` width over height of each photo in pixels; ``None``: as if all were square.
        """
        real = RealUnits.of(boxes, mask)
        return real.unpack(self.gates(boxes, real, aspect))

    def gates(self, boxes: Tensor, real: RealUnits, aspect: Tensor | None = None) -> Tensor:
        """Gates ``(M, D)`` of the real units among ``boxes`` ``(B, N, 4)``."""
        corners = at_least_float32(real.pack(boxes))
        extent = corners[:, 2:] - corners[:, :2]
        width, height = extent.unbind(dim=1)
        ratio = width / height.clamp(min=self.FLATTEST)
        if aspect is not None:
            owners = real.places(boxes.device) // real.length
            ratio = ratio * at_least_float32(aspect)[owners]
        features = torch.cat([corners[:, :2], extent, torch.stack([ratio, width * height], dim=1)], dim=1)
        gates: Tensor = self.projection(features.to(self.projection.weight.dtype)).sigmoid()
        return gates
