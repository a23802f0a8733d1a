"""Packing real units and putting them back."""

from __future__ import annotations

import torch

from crossalign.masking import RealUnits, masked_mean

MASK = torch.tensor([[True, False, True], [False, False, False], [False, True, True]])
UNITS = torch.arange(27.0).view(3, 3, 3)


def test_packing_keeps_order_and_unpacking_places() -> None:
    real = RealUnits.of(UNITS, MASK)
    packed = real.pack(UNITS)
    assert torch.equal(packed, UNITS[MASK])
    assert torch.equal(real.places(UNITS.device), torch.tensor([0, 2, 7, 8]))
    assert torch.equal(real.unpack(packed), UNITS * MASK.unsqueeze(-1))


def test_all_real_copies_nothing() -> None:
    for mask in (None, torch.ones(3, 3, dtype=torch.bool)):
        real = RealUnits.of(UNITS, mask)
        assert real.pack(UNITS).data_ptr() == UNITS.data_ptr()
        assert torch.equal(real.unpack(real.pack(UNITS)), UNITS)
        assert torch.equal(real.places(UNITS.device), torch.arange(9))


def test_gradients_reach_real_units_only() -> None:
    leaf = UNITS.clone().requires_grad_()
    real = RealUnits.of(leaf, MASK)
    (real.unpack(real.pack(leaf)) * 2).sum().backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, 2.0 * MASK.unsqueeze(-1).expand_as(UNITS))


def test_masked_mean() -> None:
    dirty = UNITS.masked_fill(~MASK.unsqueeze(-1), float("nan"))
    expected = torch.stack([(UNITS[0, 0] + UNITS[0, 2]) / 2, torch.zeros(3), (UNITS[2, 1] + UNITS[2, 2]) / 2])
    assert torch.equal(masked_mean(dirty, MASK), expected)
    torch.testing.assert_close(masked_mean(UNITS), UNITS.mean(dim=1))
    large = torch.full((1, 3, 2), 6e4, dtype=torch.float16)
    assert torch.equal(masked_mean(large, torch.tensor([[True, True, False]])), large[:, 0])


def test_units_move_to_the_front_in_order() -> None:
    real = RealUnits.of(UNITS, MASK)
    front = real.in_front()
    assert torch.equal(real.counts(UNITS.device), torch.tensor([2, 0, 2]))
    assert torch.equal(front.counts(UNITS.device), torch.tensor([2, 0, 2]))
    moved = front.unpack(real.pack(UNITS))
    expected = torch.zeros_like(UNITS)
    expected[0, :2] = UNITS[0, [0, 2]]
    expected[2, :2] = UNITS[2, [1, 2]]
    assert torch.equal(moved, expected)
    assert torch.equal(front.pack(moved), real.pack(UNITS))


def test_full_and_empty_batches_have_their_counts() -> None:
    full = RealUnits.of(UNITS, None)
    assert full.in_front() is full
    assert full.counts(UNITS.device).tolist() == [3, 3, 3]
    empty = RealUnits.of(UNITS, torch.zeros(3, 3, dtype=torch.bool))
    assert empty.counts(UNITS.device).tolist() == [0, 0, 0]
    assert empty.in_front().unpack(empty.pack(UNITS)).abs().sum() == 0
