"""Reading real units in order."""

from __future__ import annotations

import plain_encoders as plain
import pytest
import torch
from plain_encoders import MASKS
from torch import Tensor, nn

from crossalign.encoders.recurrence import last_state, read_units
from crossalign.masking import RealUnits


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_equals_reading_each_item_alone(mask: Tensor) -> None:
    torch.manual_seed(0)
    gru = nn.GRU(3, 4, batch_first=True).double()
    units = torch.randn(5, 6, 3, dtype=torch.float64)
    real = RealUnits.of(units, mask)
    states = read_units(gru, real.pack(units), real)
    last = last_state(states, real)
    for i, rows in enumerate(plain.real_items(units, mask)):
        expected = plain.gru_states(gru, rows)
        if expected:
            torch.testing.assert_close(states[i, : len(rows)], torch.stack(expected))
            torch.testing.assert_close(last[i], expected[-1])
        else:
            assert last[i].abs().sum() == 0
