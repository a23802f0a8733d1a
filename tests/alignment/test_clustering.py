"""Sinkhorn-Knopp against whole-matrix normalisation, and at values where an exponential overflows."""

from __future__ import annotations

import pytest
import torch
from plain_alignment import plain_sinkhorn

from crossalign.alignment import sinkhorn
from crossalign.alignment.clustering import _wide_sinkhorn, sinkhorn_
from crossalign.errors import CrossAlignError


def cosines(units: int, concepts: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(units * 100 + concepts)
    return (torch.rand(units, concepts, generator=generator, dtype=torch.float64) * 2 - 1).to(dtype)


@pytest.mark.parametrize("iterations", [1, 2, 3, 7])
@pytest.mark.parametrize(("units", "concepts"), [(12, 5), (5, 12), (1, 4), (4, 1)])
def test_equals_whole_matrix_normalisation(units: int, concepts: int, iterations: int) -> None:
    logits = cosines(units, concepts, torch.float64)
    expected = plain_sinkhorn(logits, 0.05, iterations)
    torch.testing.assert_close(sinkhorn(logits, 0.05, iterations), expected, rtol=1e-10, atol=1e-14)
    single = sinkhorn(logits.float(), 0.05, iterations)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, expected.float(), rtol=1e-4, atol=1e-6)


def test_hand_computed_case() -> None:
    # exp(logits) = [[1, 2], [1, 6]]; columns to equal mass: [[1/2, 1/4], [1/2, 3/4]]; then rows to one.
    logits = torch.tensor([[1.0, 2.0], [1.0, 6.0]]).log()
    expected = torch.tensor([[2 / 3, 1 / 3], [2 / 5, 3 / 5]])
    torch.testing.assert_close(sinkhorn(logits, 1.0, 1), expected)


def test_rows_sum_to_one_and_many_iterations_balance_the_concepts() -> None:
    assignment = sinkhorn(cosines(40, 8, torch.float64), 0.2, 200)
    torch.testing.assert_close(assignment.sum(dim=1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(assignment.sum(dim=0), torch.full((8,), 5.0, dtype=torch.float64))


def test_input_is_left_alone_and_has_no_gradient() -> None:
    logits = cosines(6, 4).requires_grad_()
    before = logits.detach().clone()
    assert not sinkhorn(logits, 0.05, 2).requires_grad
    torch.testing.assert_close(logits.detach(), before, rtol=0, atol=0)


@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_chosen_rows_are_rows_of_the_whole(spread: float) -> None:
    logits = cosines(9, 5) * spread
    rows = torch.tensor([8, 0, 0, 3])
    whole = sinkhorn(logits, 0.05, 3)
    torch.testing.assert_close(sinkhorn_(logits.clone(), 0.05, 3, rows), whole[rows])


@pytest.mark.parametrize("spread", [3.9, 4.1, 50.0, 6e4])
def test_extreme_values_agree_with_the_logarithmic_domain_in_double(spread: float) -> None:
    # The range of logits / epsilon is 20 * spread: the first is what an exponential in float32 still holds.
    logits = torch.tensor([[0.0, 1.0, 0.3], [0.2, 0.9, 1.0], [0.5, 0.6, 0.1], [1.0, 0.8, 0.4]]) * spread
    expected = _wide_sinkhorn(logits.double() / 0.05, 2, None)
    result = sinkhorn(logits, 0.05, 2)
    assert result.isfinite().all()
    torch.testing.assert_close(result.sum(dim=1), torch.ones(4))
    torch.testing.assert_close(result.double(), expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_raised_to_float32(dtype: torch.dtype) -> None:
    logits = cosines(10, 6, dtype)
    expected = sinkhorn(logits.float(), 0.05, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = sinkhorn(logits, 0.05, 2)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    # In half precision exp(20) and the sums over it would overflow.
    assert sinkhorn(torch.full((3, 2), 6e4, dtype=torch.float16), 0.05, 2).isfinite().all()


def test_nothing_to_assign() -> None:
    assert sinkhorn(torch.zeros(0, 4), 0.05, 2).shape == (0, 4)


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.0, 2), (-1.0, 2), (0.05, 0)])
def test_senseless_settings_are_refused(epsilon: float, iterations: int) -> None:
    with pytest.raises(CrossAlignError, match="usually"):
        sinkhorn(torch.zeros(2, 2), epsilon, iterations)
