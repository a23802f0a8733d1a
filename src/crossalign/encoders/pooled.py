"""Regions or token features to an encoding: one projection, optional non-linear context, pooling."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.encoders.pooling import build_pooling
from crossalign.encoding import Encoding
from crossalign.masking import masked_mean

__all__ = ["PooledEncoder"]


class PooledEncoder(nn.Module):
    """Project units, add a residual multi-layer perceptron, pool them to one unit-norm vector.

    With ``projection="mlp"`` and ``pooling="gpo"`` this is the region encoder of VSE-infinity (Chen et al., CVPR
    2021); with ``projection="linear"`` and ``pooling="mean"`` or ``"max"`` it is that of VSE++ (Faghri et al., BMVC
    2018) on region features.

    Args:
        input_dim: C, width of the units as they come.
        dim: D, joint width.
        projection: ``"linear"``; ``"mlp"`` for a residual two-layer perceptron beside the linear map, unit by unit;
            ``"pooled_mlp"`` for one on the mean of the units, beside the pooled linear map: far cheaper, and on
            small datasets the better one.
        pooling: ``"mean"``, ``"max"`` or ``"gpo"``.
        hidden: width of the perceptron's hidden layer.
        activation: ``"gelu"`` or ``"relu"``, between the perceptron's layers.
        dropout: probability of dropping an input feature, in all units of an item at once.
        normalize_input: scale every unit to norm ``sqrt(C)`` first; features of different backbones then share a scale.
    """

    def __init__(
        self,
        input_dim: int,
        dim: int,
        *,
        projection: Literal["linear", "mlp", "pooled_mlp"] = "mlp",
        pooling: Literal["mean", "max", "gpo"] = "gpo",
        hidden: int | None = None,
        activation: Literal["gelu", "relu"] = "gelu",
        dropout: float = 0.0,
        normalize_input: bool = False,
    ) -> None:
        super().__init__()
        self.input_norm = (
            nn.LayerNorm(input_dim, elementwise_affine=False) if normalize_input else nn.Identity()
        )
        self.dropout = dropout
        self.projection = nn.Linear(input_dim, dim)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.perceptron: nn.Module | None = None
        self.perceptron_on_mean = projection == "pooled_mlp"
        if projection != "linear":
            hidden = hidden or max(dim // 2, 1)
            self.perceptron = nn.Sequential(
                nn.Linear(input_dim, hidden),
                nn.GELU() if activation == "gelu" else nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, dim),
            )
        self.pooling = build_pooling(pooling, dim)

    def forward(self, units: Tensor, mask: Tensor) -> Encoding:
        """Encode units ``(B, N, C)`` with mask ``(B, N)``."""
        units = self.input_norm(units)
        if self.training and self.dropout > 0:
            # The same features of all units of an item: dropped unit by unit, they would come back in the mean.
            units = units * F.dropout(units.new_ones(len(units), 1, units.shape[-1]), self.dropout)
        context = projected = self.projection(units)
        if self.perceptron is not None and not self.perceptron_on_mean:
            context = projected + self.perceptron(units)
        pooled = self.pooling(context, mask)
        if self.perceptron is not None and self.perceptron_on_mean:
            pooled = pooled + self.perceptron(masked_mean(units, mask))
        return Encoding(
            embedding=F.normalize(pooled, dim=-1),
            locals=F.normalize(projected, dim=-1),
            context=context,
            mask=mask,
        )
