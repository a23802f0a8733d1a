"""Cells and boxes pooled from a map equal plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crossalign.encoders.map_units import box_units, grid_boxes, grid_units


def random_map(height: int = 7, width: int = 7) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("grid", "global_cell"), [(4, True), (4, False), (7, True), (None, True), (None, False)]
)
def test_cells_are_means_of_their_boxes(grid: int | None, global_cell: bool) -> None:
    feature_map = random_map(7, 5)
    units = grid_units(feature_map, grid, global_cell)
    boxes = grid_boxes(7, 5, grid, global_cell)
    assert units.shape == (2, len(boxes), 3)
    for unit, (left, top, right, bottom) in enumerate(boxes.tolist()):
        rows = slice(round(top * 7), round(bottom * 7))
        columns = slice(round(left * 5), round(right * 5))
        assert math.isclose(rows.start / 7, top, abs_tol=1e-6)
        assert math.isclose(columns.stop / 5, right, abs_tol=1e-6)
        expected = feature_map[:, :, rows, columns].mean(dim=(2, 3))
        torch.testing.assert_close(units[:, unit], expected)


def test_cells_go_row_by_row_after_the_global_cell() -> None:
    boxes = grid_boxes(4, 4, 2, True)
    expected = [[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]
    assert boxes.tolist() == expected


def test_boxes_on_a_ramp_give_the_value_at_their_centre() -> None:
    height, width = 8, 12
    columns = torch.arange(width).float().expand(height, width)
    rows = torch.arange(height).float()[:, None].expand(height, width)
    feature_map = torch.stack([columns, rows])[None]
    boxes = torch.tensor([[0.2, 0.3, 0.7, 0.8], [0.5, 0.5, 0.52, 0.9], [0.25, 0.125, 0.75, 0.875]])
    units, mask, placed = box_units(feature_map, [boxes])
    assert mask.tolist() == [[True] * 4]
    torch.testing.assert_close(placed[0, 1:], boxes)
    torch.testing.assert_close(units[0, 0], feature_map[0].mean(dim=(1, 2)))
    for unit, (left, top, right, bottom) in zip(units[0, 1:], boxes, strict=True):
        # Cell x holds the value x at its centre, x + 1/2.
        torch.testing.assert_close(unit[0], (left + right) / 2 * width - 0.5)
        torch.testing.assert_close(unit[1], (top + bottom) / 2 * height - 0.5)


def test_boxes_of_one_image_do_not_touch_another() -> None:
    feature_map = random_map()
    one = torch.tensor([[0.1, 0.1, 0.6, 0.9]])
    units, mask, placed = box_units(feature_map, [one, torch.zeros(0, 4)])
    assert mask.tolist() == [[True, True], [True, False]]
    assert units[1, 1].tolist() == [0, 0, 0]
    assert placed[1].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    alone, _, _ = box_units(feature_map[:1], [one])
    torch.testing.assert_close(units[0], alone[0])


def test_cells_come_before_the_boxes_of_every_image() -> None:
    feature_map = random_map()
    cells, places = grid_units(feature_map, 2, True), grid_boxes(7, 7, 2, True)
    boxes = [torch.zeros(0, 4), torch.tensor([[0.1, 0.1, 0.6, 0.9], [0.0, 0.5, 0.5, 1.0]])]
    units, mask, placed = box_units(feature_map, boxes, (cells, places))
    assert mask.tolist() == [[True] * 5 + [False] * 2, [True] * 7]
    assert torch.equal(units[:, :5], cells)
    assert torch.equal(placed[:, :5], places.expand(2, -1, -1))
    alone, _, _ = box_units(feature_map, boxes)
    assert torch.equal(units[:, 5:], alone[:, 1:])
    assert torch.equal(placed[1, 5:], boxes[1])
    assert not units[0, 5:].any()
    assert not placed[0, 5:].any()


def test_box_units_carry_gradients() -> None:
    feature_map = random_map().requires_grad_()
    units, _, _ = box_units(feature_map, [torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.zeros(0, 4)])
    units[0, 1].sum().backward()
    assert feature_map.grad is not None
    assert feature_map.grad[0, :, :3, :3].abs().min() > 0
    assert not feature_map.grad[0, :, 5:, 5:].any()
    assert not feature_map.grad[1].any()
