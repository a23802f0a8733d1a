"""The guards: what stops a run, when, and what it says."""

from __future__ import annotations

import pytest
import torch

from crossalign.data.batch import Batch, ImageInputs, TextInputs
from crossalign.errors import CrossAlignError
from crossalign.losses import HingeRankingLoss
from crossalign.training.guards import CollapseGuard, check_finite


def batch(pairs: int) -> Batch:
    return Batch(
        image=ImageInputs(),
        image_rows=torch.arange(pairs),
        text=TextInputs(mask=torch.ones(pairs, 1, dtype=torch.bool)),
        image_ids=torch.arange(pairs),
        caption_ids=tuple(f"c{n}" for n in range(pairs)),
    )


def test_finite_terms_and_gradients_pass() -> None:
    terms = {"hinge": torch.tensor(0.0), "lca": torch.tensor(-3.0)}
    check_finite(terms, None, 1, batch(3))
    check_finite(terms, torch.tensor(1e30), 1, batch(3))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_broken_term_is_named_with_step_values_and_captions(value: float) -> None:
    terms = {"hinge": torch.tensor(2.5), "lca": torch.tensor(value)}
    with pytest.raises(CrossAlignError) as caught:
        check_finite(terms, torch.tensor(1.0), 17, batch(12))
    message = str(caught.value)
    assert message.startswith("step 17: loss term 'lca' is not finite (hinge=2.5, lca=")
    assert "captions of the batch: c0, c1, c2, c3, c4, c5, c6, c7, ...;" in message
    assert "c8" not in message
    assert "\n" not in message


def test_a_short_batch_is_named_whole() -> None:
    with pytest.raises(CrossAlignError, match="captions of the batch: c0, c1;"):
        check_finite({"hinge": torch.tensor(float("nan"))}, None, 1, batch(2))


def test_a_broken_gradient_under_finite_terms_is_told_apart() -> None:
    with pytest.raises(CrossAlignError, match=r"step 3: the gradient is not finite \(hinge=1\)"):
        check_finite({"hinge": torch.tensor(1.0)}, torch.tensor(float("nan")), 3, batch(3))


def test_the_collapse_guard_counts_steps_in_a_row() -> None:
    guard = CollapseGuard(patience=3)
    for step, collapsed in enumerate([True, True, False, True, True], start=1):
        guard.check(collapsed, step)
    with pytest.raises(CrossAlignError, match=r"step 6: the hinge has stood .* for 3 steps.*summed_epochs"):
        guard.check(True, 6)


def test_equal_embeddings_are_at_the_collapse_value_and_others_are_not() -> None:
    for negatives in ("hardest", "all"):
        hinge = HingeRankingLoss(0.2, negatives)
        scores = torch.full((6, 6), 0.7)
        assert hinge.collapsed(hinge(scores).item(), 6)
        torch.manual_seed(0)
        scores = scores + 0.1 * torch.randn(6, 6)
        assert not hinge.collapsed(hinge(scores).item(), 6)
