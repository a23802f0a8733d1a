"""Norms that padded units do not reach: of single vectors, of a feature over an item's units, over a batch."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.masking import RealUnits, at_least_float32
from crossalign.processes import several_processes, summed_over_processes

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


def batch_norm(norm: nn.BatchNorm1d, rows: Tensor) -> Tensor:
    """Batch normalisation of ``(M, D)`` over the rows of all processes that train together.

    It also takes fewer than two rows: one row is its own mean and has no variance, so what is normalised is zero, and
    the running statistics stay.
    """
    if not norm.training:
        return norm(rows)
    if not several_processes():
        return rows * 0.0 + norm.bias if len(rows) < 2 else norm(rows)
    return _joint_batch_norm(norm, rows)


def _joint_batch_norm(norm: nn.BatchNorm1d, rows: Tensor) -> Tensor:
    """In two passes, the variance about the joint mean: a sum of squares would lose its digits."""
    values = at_least_float32(rows)
    counted = summed_over_processes(torch.cat([values.sum(dim=0), values.new_full((1,), len(values))]))
    count = counted[-1].detach()
    if count < 2:
        return rows * 0.0 + norm.bias
    mean = counted[:-1] / count
    centred = values - mean
    variance = summed_over_processes(centred.square().sum(dim=0)) / count
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean.detach(), norm.momentum)
        norm.running_var.lerp_(variance.detach() * count / (count - 1), norm.momentum)
    normal = centred * (variance + norm.eps).rsqrt() * norm.weight + norm.bias
    return normal.to(rows.dtype)
