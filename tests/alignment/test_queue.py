"""The queue: the last units and no others, across batches of any size."""

from __future__ import annotations

import pytest
import torch

from crossalign.alignment.queue import UnitQueue
from crossalign.errors import CrossAlignError


@pytest.mark.parametrize("sizes", [(3, 2), (2, 2, 2), (4, 4, 1), (5,), (7, 3), (1, 12, 2), (3, 0, 3)])
def test_it_holds_the_last_units(sizes: tuple[int, ...]) -> None:
    queue, seen = UnitQueue(5, 2), []
    for size in sizes:
        units = torch.randn(1, size, 2)
        queue.push(units)
        seen += units[0].tolist()
        assert sorted(queue.past().tolist()) == sorted(seen[-5:])


def test_padded_units_are_left_out_and_gradients_too() -> None:
    queue = UnitQueue(10, 2)
    units = torch.randn(2, 3, 2, requires_grad=True)
    mask = torch.tensor([[1, 0, 1], [0, 0, 1]], dtype=torch.bool)
    before = queue.past()
    queue.push(units.bfloat16(), mask)
    assert torch.equal(queue.past(), units[mask].bfloat16().float())
    assert not queue.past().requires_grad
    assert not len(before)


def test_what_was_taken_out_does_not_change() -> None:
    queue = UnitQueue(2, 1)
    queue.push(torch.tensor([[[1.0], [2.0]]]))
    past = queue.past()
    queue.push(torch.tensor([[[3.0], [4.0]]]))
    assert past.tolist() == [[1.0], [2.0]]
    assert queue.past().tolist() == [[3.0], [4.0]]


def test_its_state_goes_on() -> None:
    queue, other = UnitQueue(3, 1), UnitQueue(3, 1)
    queue.push(torch.tensor([[[1.0], [2.0]]]))
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.push(torch.tensor([[[3.0], [4.0]]]))
    assert torch.equal(queue.past(), other.past())
    assert sorted(other.past().flatten().tolist()) == [2.0, 3.0, 4.0]


def test_no_length_is_refused() -> None:
    with pytest.raises(CrossAlignError, match="length is 0"):
        UnitQueue(0, 2)
