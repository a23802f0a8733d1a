"""The diversity loss against plain loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.losses import DiversityLoss, diversity_loss

B, N, V = 4, 5, 3
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()


def logits(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(B, N, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def plain(values: Tensor, mask: Tensor) -> list[Tensor]:
    losses = []
    for item, real in zip(values, mask, strict=True):
        total = values.new_zeros(())
        for v in range(V if real.any() else 0):
            for w in range(V):
                one, other = item[real][:, v], item[real][:, w]
                cosine = one @ other / (one.norm() * other.norm())
                total = total + (cosine - float(v == w)) ** 2
        losses.append(total)
    return losses


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "scattered"])
@pytest.mark.parametrize("reduction", ["sum", "mean", None])
def test_equals_plain_loops(reduction: str | None, mask: Tensor | None) -> None:
    ours, theirs = logits().requires_grad_(), logits().requires_grad_()
    real = torch.ones(B, N, dtype=torch.bool) if mask is None else mask
    expected = torch.stack(plain(theirs, real))
    if reduction is None:
        torch.testing.assert_close(diversity_loss(ours, mask), expected)
        return
    loss = DiversityLoss(reduction)(ours, mask)  # type: ignore[arg-type]
    total = expected.sum() if reduction == "sum" else expected.sum() / real.any(dim=1).sum()
    torch.testing.assert_close(loss, total)
    torch.testing.assert_close(torch.autograd.grad(loss, ours), torch.autograd.grad(total, theirs))


def test_hand_computed_cases() -> None:
    different = torch.eye(3).unsqueeze(0)
    same = torch.ones(1, 4, 3)
    assert diversity_loss(different).item() == pytest.approx(0.0)
    assert diversity_loss(same * 7).item() == pytest.approx(6.0)
    both = torch.cat([different, same[:, :3]])
    assert DiversityLoss()(both).item() == pytest.approx(6.0)
    assert DiversityLoss("mean")(both).item() == pytest.approx(3.0)


@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
def test_padded_regions_have_no_influence(garbage: float) -> None:
    results = []
    for fill in (0.0, garbage):
        leaf = logits(torch.float32).masked_fill(~MASK.unsqueeze(-1), fill).requires_grad_()
        loss = DiversityLoss()(leaf, MASK)
        loss.backward()
        assert leaf.grad is not None
        results.append((loss, leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert results[1][1].isfinite().all()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_batch_without_regions_is_zero(reduction: str) -> None:
    leaf = logits(torch.float32).requires_grad_()
    loss = DiversityLoss(reduction)(leaf, torch.zeros(B, N, dtype=torch.bool))  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == 0
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(dtype: torch.dtype) -> None:
    expected = DiversityLoss()(logits(dtype).float(), MASK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = DiversityLoss()(logits(dtype), MASK)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


def test_unknown_reduction_is_refused() -> None:
    with pytest.raises(CrossAlignError, match="reduction is 'none'"):
        DiversityLoss("none")  # type: ignore[arg-type]
