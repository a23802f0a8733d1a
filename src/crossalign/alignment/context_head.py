"""The part of Contextual Relation Alignment that stays in each encoder: guide, keys and fused global."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from crossalign.masking import RealUnits, masked_mean
from crossalign.normalization import batch_norm, unit_norm

__all__ = ["Context", "ContextHead"]


class Context(NamedTuple):
    """What the context head makes of one modality; all of unit norm except the mean key.

    Attributes:
        guide: ``(B, D)``, the query that looks for the other modality's keys.
        keys: ``(B, N, D)``, what the other modality's guide looks for; zero at padded units.
        fused: ``(B, D)``, mean and guide mixed by the gate.
        mean_key: ``(B, D)``, mean over the real keys.
    """

    guide: Tensor
    keys: Tensor
    fused: Tensor
    mean_key: Tensor


class ContextHead(nn.Module):
    """Guide, keys and fused global of a modality's units, as a rule those in context; indexed with the embedding.

    With g the mean of the units: guide ``a = relu(norm(linear(g)))``, keys ``relu(norm(units))``, gate
    ``z = sigmoid(mlp([g; a]))``, fused ``z g + (1 - z) a``. Batch normalisation sees real units only, and
    only items that have one. SelfAlign (Zhuang et al., arXiv 2308.14009), section III-C.

    The enriched embeddings are ``[base; mean_key / 2; fused / 2]`` for images and ``[base; fused; mean_key]``
    for texts, so that their inner product adds half of each context similarity to the base similarity.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.guide = nn.Linear(dim, dim)
        self.guide_norm = nn.BatchNorm1d(dim)
        self.key_norm = nn.BatchNorm1d(dim)
        self.gate = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, units: Tensor, mask: Tensor | None = None) -> Context:
        """Units ``(B, N, D)`` with mask ``(B, N)``; an item without real units gives zeros."""
        real = RealUnits.of(units, mask)
        mean = masked_mean(units, mask)
        present = RealUnits.of(mean.unsqueeze(0), None if mask is None else mask.any(dim=1))
        mean = present.pack(mean.unsqueeze(0))
        guide = batch_norm(self.guide_norm, self.guide(mean)).relu()
        gate = self.gate(torch.cat([mean, guide], dim=1)).sigmoid()
        fused = gate * mean + (1 - gate) * guide
        keys = real.unpack(unit_norm(batch_norm(self.key_norm, real.pack(units)).relu()))
        return Context(
            guide=present.unpack(unit_norm(guide)).squeeze(0),
            keys=keys,
            fused=present.unpack(unit_norm(fused)).squeeze(0),
            mean_key=masked_mean(keys, mask),
        )
