"""Dropping whole regions or words during training."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["drop_units", "replace_tokens"]


def drop_units(mask: Tensor, probability: float) -> Tensor:
    """Take each real unit out with the given probability, keeping at least one of each item.

    VSE-infinity's size augmentation (Chen et al., CVPR 2021, section 4.2) for regions; word dropout for texts.

    Args:
        mask: ``(B, N)`` bool.

    Returns:
        ``(B, N)`` bool, a subset of ``mask``; an item that has a unit keeps one, drawn evenly.
    """
    draw = torch.rand(mask.shape, device=mask.device).masked_fill(~mask, -1.0)
    kept = mask & (draw >= probability)
    survivor = torch.zeros_like(mask).scatter_(1, draw.argmax(dim=1, keepdim=True), True)
    return kept | (survivor & mask)


def replace_tokens(tokens: Tensor, mask: Tensor, probability: float, replacement: int) -> Tensor:
    """Replace each real token by ``replacement`` (the unknown or mask token) with the given probability.

    Args:
        tokens: ``(B, W)`` int64.
        mask: ``(B, W)`` bool.
    """
    chosen = torch.rand(tokens.shape, device=tokens.device) < probability
    return tokens.masked_fill(chosen & mask, replacement)
