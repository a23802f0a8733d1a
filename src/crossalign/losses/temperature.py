"""Learnable temperatures that stay in their range."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["clamped_temperature"]


def clamped_temperature(temperature: nn.Parameter, lowest: float, highest: float) -> Tensor:
    """A temperature, brought back into its range in place where training has pushed it out.

    Clamping inside the graph instead would stop its gradient, and it would never come back. The copy lets the loss be
    called twice before one backward pass. A temperature that is not trained is left as it was chosen.
    """
    if temperature.requires_grad:
        with torch.no_grad():
            temperature.clamp_(lowest, highest)
    return temperature.clone()
