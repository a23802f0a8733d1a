"""Multi-view summarisation against plain loops."""

from __future__ import annotations

import plain_encoders as plain
import pytest
import torch
import torch.nn.functional as F
from plain_encoders import MASKS
from torch import Tensor

from crossalign.encoders.summarization import MultiViewSummarization, summarize
from crossalign.errors import CrossAlignError

B, N, D, V = 5, 6, 8, 3


def units(dtype: torch.dtype = torch.float64, width: int = D, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, N, width, generator=generator, dtype=torch.float64).to(dtype)


def build(dtype: torch.dtype = torch.float64) -> MultiViewSummarization:
    torch.manual_seed(1)
    return MultiViewSummarization(D, V, channels=4).to(dtype)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_logits_equal_plain_loops(mask: Tensor) -> None:
    layer = build()
    ours, theirs = units().requires_grad_(), units().requires_grad_()
    result = layer(ours, mask)
    expected = [
        plain.summary_logits(layer, rows) if len(rows) else rows for rows in plain.real_items(theirs, mask)
    ]
    plain.assert_items_equal(result, expected, mask)
    signs = units(width=V, seed=2)
    inputs = list(layer.parameters())
    first = torch.autograd.grad((result * signs).sum(), [ours, *inputs])
    terms = [(rows * signs[i][mask[i]]).sum() for i, rows in enumerate(expected) if len(rows)]
    for one, other in zip(
        first, torch.autograd.grad(torch.stack(terms).sum(), [theirs, *inputs]), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_a_long_sequence_has_its_ends() -> None:
    # Longer than the widest convolution reaches (6 to either side).
    rows = torch.randn(1, 20, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(build()(rows)[0], plain.summary_logits(build(), rows[0]))


@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
@pytest.mark.parametrize("mask", ["front", "scattered", "empty"])
def test_padded_units_have_no_influence(mask: str, garbage: float) -> None:
    padded = ~MASKS[mask].unsqueeze(-1)
    results = []
    for fill in (0.0, garbage):
        layer = build(torch.float32)
        leaf = units(torch.float32).masked_fill(padded, fill).requires_grad_()
        logits = layer(leaf, MASKS[mask])
        (logits * units(torch.float32, V, seed=2)).sum().backward()
        results.append([logits, leaf.grad, *(parameter.grad for parameter in layer.parameters())])
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_views_are_weighted_sums_of_real_units(mask: Tensor) -> None:
    leaf, logits = units().requires_grad_(), units(width=V, seed=2).requires_grad_()
    views = summarize(leaf, logits.masked_fill(~mask.unsqueeze(-1), 1e4), mask)
    for i in range(B):
        if mask[i].any():
            weights = F.softmax(logits[i][mask[i]], dim=0)
            torch.testing.assert_close(views[i], weights.T @ leaf[i][mask[i]])
        else:
            assert views[i].abs().sum() == 0
    for gradient in torch.autograd.grad(views.square().sum(), [leaf, logits]):
        assert gradient.isfinite().all()
        assert gradient[~mask].abs().sum() == 0


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(CrossAlignError, match="0 views, 128 channels"):
        MultiViewSummarization(D, 0)
    with pytest.raises(CrossAlignError, match="3 views, 0 channels"):
        MultiViewSummarization(D, V, channels=0)
