"""Norms that padded units do not reach: of single vectors, of a feature over an item's units, over a batch."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.masking import RealUnits, at_least_float32

__all__ = ["batch_norm", "normalize_units", "unit_norm"]


def unit_norm(vectors: Tensor) -> Tensor:
    """Vectors ``(..., D)`` of unit norm, at least in float32; a zero vector stays zero.

    In half precision the guard against a zero norm would be zero itself.
    """
    return F.normalize(at_least_float32(vectors), dim=-1)


def normalize_units(rows: Tensor, real: RealUnits, along: Literal["features", "units"]) -> Tensor:
    """Unit norm of packed units ``(M, D)``, at least in float32.

    Args:
        rows: the real units of a batch.
        real: where they stand.
        along: ``"features"`` divides each unit by its norm; ``"units"`` divides each feature of an item by its
            norm over the item's units, which is what the published code of VSRN and CAMERA does.
    """
    if along == "features":
        return unit_norm(rows)
    return real.pack(F.normalize(at_least_float32(real.unpack(rows)), dim=1))


def batch_norm(norm: nn.BatchNorm1d | nn.SyncBatchNorm, rows: Tensor) -> Tensor:
    """Batch normalisation of ``(M, D)`` that also takes fewer than two rows.

    One row is its own mean and has no variance: what is normalised is zero, and the running statistics stay.
    """
    if norm.training and rows.shape[0] < 2:
        return rows * 0.0 + norm.bias
    return norm(rows)
