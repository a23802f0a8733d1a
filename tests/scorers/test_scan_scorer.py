"""SCAN against plain loops: every setting, masks, gradients, degenerate items."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_scorers import plain_scan
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.scorers import SCANScorer, scan
from crossalign.scorers.attention import RAW_FEATURE_NORMS

N, M, R, W, D = 5, 6, 7, 9, 12
REGION_MASK = torch.tensor(
    [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 1, 0, 1], [0] * 7]
).bool()
WORD_MASK = torch.arange(W) < torch.tensor([9, 4, 1, 4, 6, 0]).unsqueeze(1)
WORD_MASK[3] = WORD_MASK[3].roll(2)
AGGREGATIONS = ("LogSumExp", "Mean", "Max", "Sum")
MASKS = {"all": (None, None), "masked": (REGION_MASK, WORD_MASK)}


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    regions = torch.randn(N, R, D, generator=generator, dtype=torch.float64)
    words = torch.randn(M, W, D, generator=generator, dtype=torch.float64)
    return F.normalize(regions, dim=-1).to(dtype), F.normalize(words, dim=-1).to(dtype)


def with_gradients(function: Any, tensors: tuple[Tensor, ...], *arguments: Any, **settings: Any) -> Any:
    """Scores and the gradients of a sum in which every score has another weight."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    scores = function(*leaves, *arguments, **settings)
    weights = torch.arange(1.0, scores.numel() + 1, dtype=scores.dtype).view_as(scores) / scores.numel()
    (scores * weights).sum().backward()
    return [scores.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("norm", RAW_FEATURE_NORMS)
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("keep_graph", [False, True])
def test_equals_plain_loops(
    direction: Any, norm: Any, aggregation: Any, masks: str, keep_graph: bool
) -> None:
    scorer = SCANScorer(direction, norm, aggregation, 5.0, 4.0)
    scorer.keep_graph = keep_graph
    expected = with_gradients(
        plain_scan,
        batch(),
        *MASKS[masks],
        direction=direction,
        norm=norm,
        aggregation=aggregation,
        lambda_softmax=5.0,
        lambda_lse=4.0,
    )
    result = with_gradients(scorer, batch(), *MASKS[masks])
    for ours, plain in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(scorer(*batch(), *MASKS[masks]), expected[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("masks", MASKS)
def test_pairs_equal_the_matrix(direction: Any, masks: str) -> None:
    scorer = SCANScorer(direction)
    regions, words = batch()
    region_mask, word_mask = MASKS[masks]
    i, j = torch.tensor([4, 0, 0, 3, 2, 4]), torch.tensor([1, 5, 2, 3, 3, 5])
    chosen = [None if mask is None else mask[k] for mask, k in ((region_mask, i), (word_mask, j))]
    result = with_gradients(lambda r, w: scorer.pairs(r[i], w[j], *chosen), (regions, words))
    expected = with_gradients(lambda r, w: scorer(r, w, region_mask, word_mask)[i, j], (regions, words))
    for ours, matrix in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, matrix, rtol=1e-9, atol=1e-9)


def test_hand_computed_case() -> None:
    # One word between two regions at right angles: raw (0.6, 0.8), each region normalised over the one word to 1.
    # So both weigh alike, the word sees their mean, and the cosine is (0.6 + 0.8) / sqrt(2).
    regions, words = torch.eye(2).unsqueeze(0), torch.tensor([[[0.6, 0.8]]])
    assert SCANScorer()(regions, words).item() == pytest.approx(1.4 / math.sqrt(2))
    # Without normalisation the weights are softmax(9 * (0.6, 0.8)).
    first, second = math.exp(5.4), math.exp(7.2)
    cosine = (0.6 * first + 0.8 * second) / math.hypot(first, second)
    assert SCANScorer("t2i", "no_norm")(regions, words).item() == pytest.approx(cosine)


@pytest.mark.parametrize("norm", RAW_FEATURE_NORMS)
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("garbage", [1e4, -3e38, float("nan"), float("inf")])
def test_padded_units_have_no_influence(garbage: float, direction: Any, norm: Any) -> None:
    scorer = SCANScorer(direction, norm)
    regions, words = batch(torch.float32)
    expected = with_gradients(scorer, (regions, words), REGION_MASK, WORD_MASK)
    regions = regions.masked_fill(~REGION_MASK.unsqueeze(-1), garbage)
    words = words.masked_fill(~WORD_MASK.unsqueeze(-1), garbage)
    result = with_gradients(scorer, (regions, words), REGION_MASK, WORD_MASK)
    for ours, clean in zip(result, expected, strict=True):
        assert torch.equal(ours, clean)
    assert result[1][~REGION_MASK].abs().sum() == 0
    assert result[2][~WORD_MASK].abs().sum() == 0


@pytest.mark.parametrize("norm", ["no_norm", "clipped", "l2norm"])
@pytest.mark.parametrize("sharpness", [100.0, 1e4])
def test_sharp_softmax_is_finite_and_takes_the_best_region(norm: Any, sharpness: float) -> None:
    regions, words = batch()
    scorer = SCANScorer("t2i", norm, "Mean", sharpness)
    result = with_gradients(scorer, (regions, words), REGION_MASK, WORD_MASK)
    assert all(tensor.isfinite().all() for tensor in result)
    expected = plain_scan(
        regions, words, REGION_MASK, WORD_MASK, norm=norm, aggregation="Mean", lambda_softmax=sharpness
    )
    torch.testing.assert_close(result[0], expected)


def test_all_real_regions_below_zero_and_padding_beside_them() -> None:
    # Without the mask, the padded region's zero would be the largest logit and all weights would vanish.
    regions = torch.tensor([[[-1.0, 0.0], [0.0, 0.0]]])
    scorer = SCANScorer("t2i", "no_norm", "Max", 500.0)
    score = scorer(regions, torch.tensor([[[1.0, 0.0]]]), torch.tensor([[True, False]]))
    assert score.item() == pytest.approx(-1.0)


@pytest.mark.parametrize("lambda_lse", [6.0, 39.0, 41.0, 1e3])
def test_large_lambda_of_the_sum_does_not_overflow(lambda_lse: float) -> None:
    tensors = batch(torch.float32)
    scores = SCANScorer("t2i", "l2norm", "LogSumExp", 9.0, lambda_lse)(*tensors)
    expected = plain_scan(
        *(tensor.double() for tensor in tensors), norm="l2norm", lambda_lse=min(lambda_lse, 500.0)
    )
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-5 if lambda_lse < 500 else 5e-3)


def test_regions_that_cancel_give_bounded_scores_and_gradients() -> None:
    direction = F.normalize(torch.randn(1, 1, D, generator=torch.Generator().manual_seed(1)), dim=-1)
    regions = torch.cat([direction, -direction], dim=1)
    words = batch(torch.float32)[1]
    for tilt in (0.0, 1e-7, 1e-4):
        result = with_gradients(SCANScorer("t2i", "softmax", "Sum"), (regions + tilt, words))
        assert result[0].abs().max() <= W * 1.01
        assert all(tensor.isfinite().all() for tensor in result)


@pytest.mark.parametrize("common", [0.0, 1.0, 3.0])
def test_single_precision_is_exact_to_one_in_ten_thousand(common: float) -> None:
    generator = torch.Generator().manual_seed(2)
    shared = common * torch.randn(1, 1, 256, generator=generator)
    regions = F.normalize(torch.randn(4, 36, 256, generator=generator) + shared, dim=-1)
    words = F.normalize(torch.randn(6, 12, 256, generator=generator) + shared, dim=-1)
    for direction in ("t2i", "i2t"):
        scores = SCANScorer(direction)(regions, words)  # type: ignore[arg-type]
        expected = plain_scan(regions.double(), words.double(), direction=direction)
        torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-5)


def test_item_without_units_scores_as_one_zero_unit() -> None:
    regions, words = batch()
    scores = SCANScorer("t2i")(regions, words, REGION_MASK, WORD_MASK)
    # Every cosine with a zero vector is zero: the log-sum-exp of L zeros.
    assert scores[4, 0].item() == pytest.approx(math.log(9) / 6)
    assert scores[0, 5].item() == pytest.approx(0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(dtype: torch.dtype) -> None:
    tensors = batch(dtype)
    single = tuple(tensor.float() for tensor in tensors)
    expected = with_gradients(SCANScorer(), single, REGION_MASK, WORD_MASK)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            result = with_gradients(SCANScorer(), tensors, REGION_MASK, WORD_MASK)
        assert result[0].dtype == torch.float32
        assert torch.equal(result[0], expected[0])
        for ours, plain in zip(result[1:], expected[1:], strict=True):
            assert torch.equal(ours, plain.to(dtype))


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_small_pieces_give_the_same_scores(direction: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = SCANScorer(direction)
    expected = scorer(*batch(), REGION_MASK, WORD_MASK)
    monkeypatch.setattr(scan, "_ELEMENTS", {True: 60, False: 60})
    monkeypatch.setattr(scan, "_CACHED", 20)
    torch.testing.assert_close(scorer(*batch(), REGION_MASK, WORD_MASK), expected)


def test_only_pairs_with_a_gradient_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = SCANScorer()
    counted: list[int] = []
    once = scorer.score_pairs
    monkeypatch.setattr(
        scorer, "score_pairs", lambda i, t, row, column: counted.append(len(row)) or once(i, t, row, column)
    )
    regions, words = (tensor.requires_grad_() for tensor in batch())
    scorer(regions, words)[[0, 1, 4], [3, 1, 2]].sum().backward()
    assert counted == [3]
    assert regions.grad is not None
    assert (regions.grad.abs().sum(dim=(1, 2)) > 0).tolist() == [True, True, False, False, True]


def test_frozen_side_has_no_gradient() -> None:
    regions, words = batch()
    words.requires_grad_()
    SCANScorer()(regions, words).sum().backward()
    assert regions.grad is None
    assert words.grad is not None


def test_nothing_to_score() -> None:
    regions, words = batch()
    assert SCANScorer()(regions[:0], words).shape == (0, M)
    assert SCANScorer()(regions, words[:0]).shape == (N, 0)
    assert SCANScorer().pairs(regions[:0], words[:0]).shape == (0,)


def test_bad_input_is_refused() -> None:
    regions, words = batch()
    for settings in (
        {"direction": "both"},
        {"raw_feature_norm": "l3norm"},
        {"aggregation": "Min"},
        {"lambda_softmax": 0.0},
        {"lambda_lse": math.nan},
    ):
        with pytest.raises(CrossAlignError, match=next(iter(settings))):
            SCANScorer(**settings)  # type: ignore[arg-type]
    with pytest.raises(CrossAlignError, match="both the same width"):
        SCANScorer()(regions, words[..., :4])
    with pytest.raises(CrossAlignError, match="mask"):
        SCANScorer()(regions, words, REGION_MASK[:2])
    with pytest.raises(CrossAlignError, match="shape"):
        SCANScorer()(regions[0], words)
    with pytest.raises(CrossAlignError, match="give one each"):
        SCANScorer().pairs(regions, words)
