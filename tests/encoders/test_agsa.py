"""Adaptive gating self-attention against plain loops."""

from __future__ import annotations

import plain_encoders as plain
import pytest
import torch
from plain_encoders import MASKS
from torch import Tensor

from crossalign.encoders.agsa import AdaptiveGatingSelfAttention
from crossalign.errors import CrossAlignError

B, N, D, HEADS = 5, 6, 8, 2


def units(dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, N, D, generator=generator, dtype=torch.float64).to(dtype)


def build(dtype: torch.dtype = torch.float64, dropout: float = 0.0) -> AdaptiveGatingSelfAttention:
    torch.manual_seed(1)
    layer = AdaptiveGatingSelfAttention(D, HEADS, dropout)
    plain.random_norms(layer)
    return layer.to(dtype)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_equals_plain_loops(mask: Tensor, gated: bool, training: bool) -> None:
    layer = build().train(training)
    positions = units(seed=1).sigmoid() if gated else None
    ours, theirs = units().requires_grad_(), units().requires_grad_()
    result = layer(ours, mask, positions)
    gates = None if positions is None else plain.real_items(positions, mask)
    expected = plain.attended(layer, plain.real_items(theirs, mask), gates)
    plain.assert_items_equal(result, expected, mask)
    signs = units(seed=2)
    inputs = list(layer.parameters())
    first = torch.autograd.grad((result * signs).sum(), [ours, *inputs])
    total = torch.stack([(rows * signs[i][mask[i]]).sum() for i, rows in enumerate(expected)]).sum()
    for one, other in zip(first, torch.autograd.grad(total, [theirs, *inputs]), strict=True):
        torch.testing.assert_close(one, other)


def test_mask_of_ones_and_no_mask_are_the_same() -> None:
    assert torch.equal(build()(units()), build()(units(), MASKS["all"]))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
@pytest.mark.parametrize("mask", ["front", "scattered", "empty"])
def test_padded_units_have_no_influence(mask: str, garbage: float, dropout: float) -> None:
    padded = ~MASKS[mask].unsqueeze(-1)
    results = []
    for fill in (0.0, garbage):
        layer = build(torch.float32, dropout)
        leaf = units(torch.float32).masked_fill(padded, fill).requires_grad_()
        positions = units(torch.float32, seed=1).sigmoid().masked_fill(padded, fill)
        torch.manual_seed(7)
        result = layer(leaf, MASKS[mask], positions)
        (result * units(torch.float32, seed=2)).sum().backward()
        results.append(
            [result, leaf.grad, *(parameter.grad for parameter in layer.parameters()), *layer.buffers()]
        )
    for clean, dirty in zip(*results, strict=True):
        assert clean.isfinite().all()
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("count", [0, 1])
def test_batch_with_next_to_nothing_is_finite(count: int, training: bool) -> None:
    mask = torch.zeros(B, N, dtype=torch.bool)
    mask[2, 4] = count == 1
    layer = build(torch.float32).train(training)
    leaf = units(torch.float32).requires_grad_()
    result = layer(leaf, mask)
    result.sum().backward()
    assert result.isfinite().all()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert result.norm(dim=2).count_nonzero() == count


def test_dropout_takes_attention_weights_and_features_in_training_only() -> None:
    layer = AdaptiveGatingSelfAttention(D, HEADS, dropout=0.5).double()
    layer.norm.eval()
    # A unit alone gives its own value: twice (weight kept) and twice again (feature kept), or nothing.
    alone = units().flatten(0, 1).unsqueeze(1)
    value = layer.value(alone) / (1 + layer.norm.eps) ** 0.5
    torch.manual_seed(0)
    kept = ((layer(alone) - alone) / value).squeeze(1)
    assert sorted({round(number, 6) for number in kept.flatten().tolist()}) == [0.0, 4.0]
    whole_heads = (kept.unflatten(1, (HEADS, -1)) == 0).all(dim=2).double().mean().item()
    assert 0.3 < whole_heads < 0.8
    layer.eval()
    torch.testing.assert_close(layer(alone) - alone, value)


def test_heads_have_to_divide_the_width() -> None:
    for heads in (3, 0):
        with pytest.raises(CrossAlignError, match=f"{heads} heads do not divide the width 8"):
            AdaptiveGatingSelfAttention(D, heads)
