"""Norms of vectors, of features over units, and of batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crossalign.masking import RealUnits
from crossalign.normalization import batch_norm, normalize_units, unit_norm

MASK = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])


def test_unit_norm_of_half_precision_and_zero() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-6, 0.0]], dtype=torch.float16)
    result = unit_norm(vectors)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, torch.tensor([[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]]))


def test_along_features_or_units() -> None:
    units = torch.tensor(
        [[[3.0, 1.0], [9.0, 9.0], [4.0, 0.0]], [[1.0, 1.0]] * 3, [[5.0, 5.0], [0.0, 2.0], [7.0, 7.0]]]
    )
    real = RealUnits.of(units, MASK)
    features = normalize_units(real.pack(units), real, "features")
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    over_units = normalize_units(real.pack(units), real, "units")
    torch.testing.assert_close(over_units, torch.tensor([[0.6, 1.0], [0.8, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("count", [0, 1])
def test_batch_norm_of_next_to_nothing(count: int, training: bool) -> None:
    norm = nn.BatchNorm1d(2).train(training)
    nn.init.constant_(norm.bias, 0.5)
    rows = torch.ones(count, 2)
    expected = torch.full((count, 2), 0.5 if training else 0.5 + 1 / (1 + norm.eps) ** 0.5)
    torch.testing.assert_close(batch_norm(norm, rows), expected)
    assert torch.equal(norm.running_mean, torch.zeros(2))


def test_batch_norm_of_rows_is_torchs() -> None:
    rows = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(batch_norm(nn.BatchNorm1d(2), rows), nn.BatchNorm1d(2)(rows))
