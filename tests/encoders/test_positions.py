"""Gates from boxes."""

from __future__ import annotations

import plain_encoders as plain
import pytest
import torch
from plain_encoders import MASKS
from torch import Tensor

from crossalign.encoders.positions import BoxPositions

B, N, D = 5, 6, 4


def some_boxes(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    corners = torch.rand(B, N, 2, generator=generator, dtype=torch.float64) * 0.5
    extent = 0.05 + torch.rand(B, N, 2, generator=generator, dtype=torch.float64) * 0.4
    return torch.cat([corners, corners + extent], dim=2).to(dtype)


def build(dtype: torch.dtype = torch.float64) -> BoxPositions:
    torch.manual_seed(5)
    return BoxPositions(D).to(dtype)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_equals_plain_loops(mask: Tensor) -> None:
    layer, boxes = build(), some_boxes()
    aspect = torch.tensor([1.5, 0.7, 1.0, 2.0, 0.5]).double()
    expected = [
        plain.box_gates(layer, rows, ratio)
        for rows, ratio in zip(plain.real_items(boxes, mask), aspect.tolist(), strict=True)
    ]
    plain.assert_items_equal(layer(boxes, mask, aspect), expected, mask)


def test_without_aspect_photos_are_square() -> None:
    boxes = some_boxes()
    assert torch.equal(build()(boxes), build()(boxes, None, torch.ones(B)))
    assert not torch.allclose(build()(boxes), build()(boxes, None, torch.full((B,), 2.0)))


def test_hand_computed_case() -> None:
    layer = BoxPositions(6)
    with torch.no_grad():
        layer.projection.weight.copy_(torch.eye(6))
        layer.projection.bias.zero_()
    # Corner (0.1, 0.2), width 0.4, height 0.5; the photo is twice as wide as high: ratio 1.6, area 0.2.
    gates = layer(torch.tensor([[[0.1, 0.2, 0.5, 0.7]]]), None, torch.tensor([2.0]))
    torch.testing.assert_close(gates[0, 0].logit(), torch.tensor([0.1, 0.2, 0.4, 0.5, 1.6, 0.2]))


@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
def test_padded_boxes_have_no_influence(garbage: float) -> None:
    mask = MASKS["scattered"]
    padded = ~mask.unsqueeze(-1)
    results = []
    for fill in (0.0, garbage):
        layer = build(torch.float32)
        gates = layer(some_boxes(torch.float32).masked_fill(padded, fill), mask)
        gates.square().sum().backward()
        results.append([gates, *(parameter.grad for parameter in layer.parameters())])
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize("box", [[0.2, 0.3, 0.2, 0.3], [0.0, 0.5, 1.0, 0.5], [0.5, 0.0, 0.5, 1.0]])
def test_boxes_without_area_are_numbers(box: list[float]) -> None:
    layer = build(torch.float32)
    gates = layer(torch.tensor([[box]]))
    gates.sum().backward()
    assert gates.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_half_precision_boxes() -> None:
    boxes = some_boxes(torch.float16)
    assert torch.equal(build(torch.float32)(boxes), build(torch.float32)(boxes.float()))
