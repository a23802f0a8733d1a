"""The hinge ranking loss against plain loops."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.losses import HingeRankingLoss

IDS = torch.tensor([1, 2, 1, 3, 2, 4])


def plain_hinge(scores: Tensor, margin: float, hardest: bool, ids: list[int]) -> Tensor:
    total = scores.new_zeros(())
    for i in range(len(ids)):
        negatives = [j for j in range(len(ids)) if ids[j] != ids[i]]
        if not negatives:
            continue
        texts = torch.stack([margin + scores[i, j] - scores[i, i] for j in negatives]).clamp(min=0)
        images = torch.stack([margin + scores[j, i] - scores[i, i] for j in negatives]).clamp(min=0)
        total = total + (texts.max() + images.max() if hardest else texts.sum() + images.sum())
    return total


def scores_of(dtype: torch.dtype, size: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.rand(size, size, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ids", [None, IDS], ids=["distinct", "shared"])
@pytest.mark.parametrize("negatives", ["hardest", "all"])
@pytest.mark.parametrize("margin", [0.05, 0.2, 3.0])
def test_equals_plain_loops(
    margin: float, negatives: Literal["hardest", "all"], ids: Tensor | None, dtype: torch.dtype
) -> None:
    scores = scores_of(dtype).requires_grad_()
    loss = HingeRankingLoss(margin, negatives)(scores, ids)
    loss.backward()
    raised = scores.detach().to(torch.float64).requires_grad_()
    names = list(range(6)) if ids is None else ids.tolist()
    expected = plain_hinge(raised, margin, negatives == "hardest", names)
    expected.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    assert scores.grad is not None
    assert raised.grad is not None
    torch.testing.assert_close(scores.grad.double(), raised.grad)


def test_hand_computed_case() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.5, 0.6], [0.3, 0.4, 0.7]])
    # Texts of each image: 0.1, 0.3, 0; images of each text: 0, 0.5, 0.1.
    assert HingeRankingLoss(0.2)(scores).item() == pytest.approx(1.0)


def test_finite_differences() -> None:
    for negatives in ("hardest", "all"):
        loss = HingeRankingLoss(0.2, negatives)
        assert torch.autograd.gradcheck(
            lambda s, loss=loss: loss(s, IDS), scores_of(torch.float64).requires_grad_()
        )


@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_without_negatives_everything_is_zero(negatives: Literal["hardest", "all"]) -> None:
    for scores, ids in ((scores_of(torch.float32, 1), None), (scores_of(torch.float32), torch.zeros(6))):
        leaf = scores.requires_grad_()
        loss = HingeRankingLoss(0.2, negatives)(leaf, ids)
        loss.backward()
        assert loss.item() == 0.0
        assert leaf.grad is not None
        assert leaf.grad.abs().sum() == 0


@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_equal_scores_are_recognised_as_collapse(negatives: Literal["hardest", "all"]) -> None:
    loss = HingeRankingLoss(0.2, negatives)
    value = loss(torch.full((8, 8), 0.97)).item()
    assert value == pytest.approx(loss.collapse_value(8), rel=1e-5)
    assert loss.collapsed(value, 8)
    assert loss.collapsed(value * 1.0005, 8)
    assert not loss.collapsed(value * 1.01, 8)
    assert not loss.collapsed(value, 9)
    assert not loss.collapsed(0.0, 1)


def test_collapse_value_of_hardest_negatives_is_twice_the_margin_an_item() -> None:
    assert HingeRankingLoss(0.2).collapse_value(128) == pytest.approx(2 * 128 * 0.2)


def test_bad_input_is_refused() -> None:
    with pytest.raises(CrossAlignError, match="margin is 0"):
        HingeRankingLoss(0.0)
    with pytest.raises(CrossAlignError, match="'some'; choose 'hardest' or 'all'"):
        HingeRankingLoss(negatives="some")  # type: ignore[arg-type]
    with pytest.raises(CrossAlignError, match="square"):
        HingeRankingLoss()(torch.zeros(3, 4))
    with pytest.raises(CrossAlignError, match="one id a pair"):
        HingeRankingLoss()(torch.zeros(3, 3), torch.zeros(4))
