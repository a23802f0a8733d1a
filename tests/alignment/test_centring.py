"""Units without their mean: a plain loop is in ``test_lca_term``; here types, padding and a cone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from crossalign.alignment import centred_units


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    units = torch.randn(3, 4, 5).to(dtype)
    mask = torch.rand(3, 4) < 0.7
    mask[0, 0] = True
    result = centred_units(units, mask)
    assert result.dtype == torch.float32
    assert torch.equal(result[mask], centred_units(units.float(), mask)[mask])


def test_a_cone_is_opened() -> None:
    torch.manual_seed(0)
    units = F.normalize(torch.randn(6, 7, 32) + 5 * torch.randn(32), dim=-1)
    mask = torch.ones(6, 7, dtype=torch.bool)

    def likeness(rows: torch.Tensor) -> torch.Tensor:
        flat = rows.flatten(0, 1)
        return (flat @ flat.T - torch.eye(42)).sum() / (42 * 41)

    assert likeness(units) > 0.9
    assert likeness(centred_units(units, mask)).abs() < 0.05


def test_padding_has_no_influence_and_no_gradient() -> None:
    units = torch.randn(3, 4, 5)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)
    spoilt = units.masked_fill(~mask.unsqueeze(-1), torch.nan).requires_grad_()
    result = centred_units(spoilt, mask)
    assert torch.equal(result, centred_units(units, mask))
    assert not result[~mask].any()
    result[:, :, 0].sum().backward()
    assert spoilt.grad is not None
    assert spoilt.grad.isfinite().all()
    assert not spoilt.grad[~mask].any()
    assert torch.equal(centred_units(units), centred_units(units, torch.ones(3, 4, dtype=torch.bool)))


@pytest.mark.parametrize("real", [0, 1, 4])
def test_units_that_are_the_mean_stay_zero_and_move_nothing_wildly(real: int) -> None:
    """None, one alone, or several that have become one point."""
    units = torch.ones(1, 5, 3, requires_grad=True)
    result = centred_units(units, torch.arange(5)[None] < real)
    assert not result.any()
    result.sum().backward()
    assert units.grad is not None
    assert units.grad.abs().max() <= 1e5
