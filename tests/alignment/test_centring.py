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


def test_no_real_unit_and_one_alone_leave_no_nan() -> None:
    units = torch.randn(2, 3, 4)
    none = torch.zeros(2, 3, dtype=torch.bool)
    one = none.clone()
    one[1, 2] = True
    assert not centred_units(units, one).isnan().any()
    assert not centred_units(units, one)[1, 2].any()
    assert centred_units(units, none).shape == (2, 3, 4)
