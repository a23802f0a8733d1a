"""SGR, SAF and their mean against plain loops: masks, gradients, batch statistics, published names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_scorers import plain_sgraf
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.scorers import SAFScorer, SGRAFScorer, SGRScorer, from_published, similarity
from crossalign.scorers.normalisation import MaskedBatchNorm
from crossalign.scorers.reasoning import ReasoningStep

N, M, R, W, D, K = 4, 6, 7, 9, 12, 6
REGION_MASK = torch.tensor(
    [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [0, 1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0]]
).bool()
WORD_MASK = torch.arange(W) < torch.tensor([9, 4, 1, 4, 6, 0]).unsqueeze(1)
WORD_MASK[3] = WORD_MASK[3].roll(2)
MASKS = {"all": (None, None), "masked": (REGION_MASK, WORD_MASK)}
KINDS: dict[str, type[SGRScorer] | type[SAFScorer]] = {"sgr": SGRScorer, "saf": SAFScorer}


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    regions = torch.randn(N, R, D, generator=generator, dtype=torch.float64)
    words = torch.randn(M, W, D, generator=generator, dtype=torch.float64)
    return F.normalize(regions, dim=-1).to(dtype), F.normalize(words, dim=-1).to(dtype)


def shaken(module: torch.nn.Module) -> None:
    """Random biases and running statistics, so that none of them is left out unseen."""
    generator = torch.Generator().manual_seed(7)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name.endswith("bias") or name.endswith("running_mean"):
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        elif name.endswith("running_var") or (name.endswith("weight") and tensor.dim() == 1):
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)


def make(kind: str, dtype: torch.dtype = torch.float64, **settings: Any) -> SGRScorer | SAFScorer:
    torch.manual_seed(3)
    scorer = KINDS[kind](D, K, regions=R + 2, **settings).to(dtype)
    shaken(scorer)
    return scorer.eval()


def with_gradients(function: Any, tensors: tuple[Tensor, ...], module: torch.nn.Module) -> list[Tensor]:
    """Scores and the gradients, at inputs and parameters, of a sum in which every score has another weight."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    module.zero_grad()
    scores = function(*leaves)
    weights = torch.arange(1.0, scores.numel() + 1, dtype=scores.dtype).view_as(scores)
    (scores * weights).sum().backward()
    found = [leaf.grad for leaf in leaves] + [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for parameter in module.parameters()
    ]
    return [scores.detach(), *(gradient for gradient in found if gradient is not None)]


def masked_gradients(scorer: SGRScorer | SAFScorer, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return with_gradients(lambda r, w: scorer(r, w, REGION_MASK, WORD_MASK), tensors, scorer)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("keep_graph", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_plain_loops(kind: str, keep_graph: bool, masks: str) -> None:
    scorer = make(kind)
    scorer.keep_graph = keep_graph
    expected = with_gradients(lambda r, w: plain_sgraf(scorer, r, w, *MASKS[masks]), batch(), scorer)
    result = with_gradients(lambda r, w: scorer(r, w, *MASKS[masks]), batch(), scorer)
    assert len(result) == len(expected) > 20
    for ours, plain in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        torch.testing.assert_close(scorer(*batch(), *MASKS[masks]), expected[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_steps(steps: int) -> None:
    scorer = make("sgr", steps=steps)
    torch.testing.assert_close(scorer(*batch()), plain_sgraf(scorer, *batch()), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("kind", [*KINDS, "sgraf"])
def test_pairs_equal_the_matrix(kind: str, masks: str) -> None:
    scorer: Any = SGRAFScorer(D, K, regions=R).double().eval() if kind == "sgraf" else make(kind)
    regions, words = batch()
    region_mask, word_mask = MASKS[masks]
    i, j = torch.tensor([3, 0, 0, 1, 2, 3]), torch.tensor([1, 5, 2, 3, 3, 5])
    chosen = [None if mask is None else mask[k] for mask, k in ((region_mask, i), (word_mask, j))]
    result = with_gradients(lambda r, w: scorer.pairs(r[i], w[j], *chosen), (regions, words), scorer)
    expected = with_gradients(
        lambda r, w: scorer(r, w, region_mask, word_mask)[i, j], (regions, words), scorer
    )
    for ours, matrix in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, matrix, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("masks", MASKS)
def test_saf_in_training_takes_statistics_of_each_text(masks: str) -> None:
    scorer = make("saf")
    assert isinstance(scorer, SAFScorer)
    gate_norm = scorer.gate_norm
    before = gate_norm.running_mean.clone(), gate_norm.running_var.clone()
    # Only the gate in training mode: the rest has its own tests.
    statistics: list[tuple[Tensor, Tensor]] = []
    expected = with_gradients(
        lambda r, w: plain_sgraf(scorer, r, w, *MASKS[masks], statistics=statistics), batch(), scorer
    )
    scorer.training = gate_norm.training = True
    result = with_gradients(lambda r, w: scorer(r, w, *MASKS[masks]), batch(), scorer)
    for ours, plain in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-7)
    means, variances = (torch.stack(values) for values in zip(*statistics, strict=True))
    torch.testing.assert_close(gate_norm.running_mean, 0.9 * before[0] + 0.1 * means.mean())
    torch.testing.assert_close(gate_norm.running_var, 0.9 * before[1] + 0.1 * variances.mean())
    with torch.no_grad():
        again = scorer(*batch(), *MASKS[masks])
    torch.testing.assert_close(again, result[0], rtol=1e-9, atol=1e-12)


def test_saf_in_training_refuses_single_pairs() -> None:
    scorer = make("saf").train()
    with pytest.raises(CrossAlignError, match="eval"):
        scorer.pairs(*(tensor[:2] for tensor in batch()))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", [1e4, -3e38, float("nan"), float("inf")])
def test_padded_units_have_no_influence(kind: str, garbage: float, training: bool) -> None:
    results, states = [], []
    for value in (0.5, garbage):
        scorer = make(kind, torch.float32, dropout=0.3).train(training)
        regions, words = batch(torch.float32)
        regions = regions.masked_fill(~REGION_MASK.unsqueeze(-1), value)
        words = words.masked_fill(~WORD_MASK.unsqueeze(-1), value)
        torch.manual_seed(5)
        results.append(masked_gradients(scorer, (regions, words)))
        states.append(scorer.state_dict())
    for ours, clean in zip(*results, strict=True):
        assert torch.equal(ours, clean)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert all(tensor.isfinite().all() for tensor in results[1])
    assert results[1][1][~REGION_MASK].abs().sum() == 0
    assert results[1][2][~WORD_MASK].abs().sum() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing_in_training(kind: str) -> None:
    regions, words = batch()
    states = []
    for padding in (0, 2):
        scorer = make(kind, dropout=0.0).train()
        padded = F.pad(regions, (0, 0, 0, padding)), F.pad(words, (0, 0, 0, padding))
        masks = [
            torch.arange(size + padding).expand(len(units), -1) < size
            for units, size in ((regions, R), (words, W))
        ]
        scores = scorer(*padded, *masks)
        scores.sum().backward()
        gradients = {f"gradient of {name}": p.grad for name, p in scorer.named_parameters()}
        states.append({"scores": scores.detach(), **scorer.state_dict(), **gradients})
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_training_keeps_the_graph_or_computes_again_alike(kind: str) -> None:
    results = []
    for keep_graph in (False, True):
        scorer = make(kind, dropout=0.4).train()
        scorer.keep_graph = keep_graph
        torch.manual_seed(1)
        results.append(masked_gradients(scorer, batch()))
    for again, kept in zip(*results, strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-9, atol=1e-12)


def test_dropout_acts_in_training_only() -> None:
    scorer = make("sgr", dropout=0.5)
    assert torch.equal(scorer(*batch()), scorer(*batch()))
    scorer.image_summary.dropout.train()
    assert not torch.equal(scorer(*batch()), scorer(*batch()))


def test_hardest_negatives_train_sgr_from_few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = make("sgr")
    counted: list[int] = []
    once = scorer.score_pairs
    monkeypatch.setattr(
        scorer, "score_pairs", lambda i, t, row, column: counted.append(len(row)) or once(i, t, row, column)
    )
    scorer(*batch())[[0, 1, 3], [3, 1, 2]].sum().backward()
    assert counted == [3]
    assert all(parameter.grad is not None for parameter in scorer.parameters())


def test_sgraf_is_the_mean() -> None:
    torch.manual_seed(0)
    scorer = SGRAFScorer(D, K, regions=R).double().eval()
    shaken(scorer)
    arguments = (*batch(), REGION_MASK, WORD_MASK)
    expected = (plain_sgraf(scorer.sgr, *arguments) + plain_sgraf(scorer.saf, *arguments)) / 2
    torch.testing.assert_close(scorer(*arguments), expected, rtol=1e-6, atol=1e-8)
    scorer.keep_graph = True
    torch.testing.assert_close(scorer(*arguments), expected, rtol=1e-6, atol=1e-8)
    assert scorer.sgr.keep_graph
    assert scorer.saf.keep_graph


@pytest.mark.parametrize("kind", KINDS)
def test_small_pieces_give_the_same_scores(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = make(kind)
    arguments = (*batch(), REGION_MASK, WORD_MASK)
    expected = scorer(*arguments)
    monkeypatch.setattr(similarity, "_ELEMENTS", {True: 5 * D, False: 5 * D})
    with torch.no_grad():
        torch.testing.assert_close(scorer(*arguments), expected, rtol=1e-10, atol=1e-12)
    scorer.train()
    scorer.image_summary.eval()
    scorer.text_summary.eval()
    small = masked_gradients(scorer, batch())
    monkeypatch.undo()
    whole = masked_gradients(scorer, batch())
    for ours, other in zip(small, whole, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_computes_in_float32(kind: str, dtype: torch.dtype) -> None:
    scorer = make(kind, torch.float32)
    tensors = batch(dtype)
    expected = with_gradients(scorer, tuple(tensor.float() for tensor in tensors), scorer)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            scores = scorer(*tensors)
        assert scores.dtype == torch.float32
        assert torch.equal(scores, expected[0])


def test_masked_batch_norm_equals_the_librarys_on_real_values() -> None:
    torch.manual_seed(0)
    values = torch.randn(5, 3, 4)
    ours, plain = MaskedBatchNorm(4), torch.nn.BatchNorm1d(3)
    torch.testing.assert_close(ours(values), plain(values))
    torch.testing.assert_close(ours.running_var[:3], plain.running_var)
    torch.testing.assert_close(ours.running_mean, F.pad(plain.running_mean, (0, 1)))
    ours.eval(), plain.eval()
    torch.testing.assert_close(ours(values), plain(values))
    # One channel's real values alone.
    mask = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]]).bool()
    masked, alone = MaskedBatchNorm(3), torch.nn.BatchNorm1d(1)
    result = masked(values, mask)
    torch.testing.assert_close(result[mask[:, 0], 0], alone(values[mask[:, 0], :1]).squeeze(1))
    torch.testing.assert_close(masked.running_var[:1], alone.running_var)
    assert masked.running_mean[2] == 0
    assert masked.running_var[2] == 1


def test_reasoning_step_equals_its_formula() -> None:
    torch.manual_seed(0)
    step = ReasoningStep(K).double()
    shaken(step)
    nodes = torch.randn(3, 5, K, dtype=torch.float64) * 3
    edges = (step.query(nodes) @ step.key(nodes).transpose(1, 2)).softmax(dim=2)
    expected = step.output(edges @ nodes).relu()
    torch.testing.assert_close(step(nodes), expected)
    torch.testing.assert_close(step.first(nodes), expected[:, 0])


def test_published_names_are_read_and_others_refused() -> None:
    linear = {"weight": torch.zeros(1), "bias": torch.zeros(1)}
    norm = {**linear, "running_mean": torch.zeros(1), "running_var": torch.zeros(1)}
    norm["num_batches_tracked"] = torch.tensor(3)
    parts = {
        "v_global_w.embedding_local.0": linear,
        "v_global_w.embedding_local.1": norm,
        "SGR_module.2.graph_key_w": linear,
        "SAF_module.bn": norm,
        "t_global_w.embedding_common.0": linear,
    }
    state = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    assert set(from_published(state)) == {
        *(f"image_summary.unit.{name}" for name in ("weight", "bias")),
        *(f"image_summary.unit_norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
        "steps.2.key.weight",
        *(f"gate_norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
        "text_summary.attention.weight",
    }
    for stranger in ("sim_eval_w.scale", "SGR_module.0.bn.weight", "fc.weight"):
        with pytest.raises(CrossAlignError, match=stranger):
            from_published({**state, stranger: torch.zeros(1)})


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_a_published_name(kind: str) -> None:
    from crossalign.scorers.published import PUBLISHED_NAMES

    known = set(PUBLISHED_NAMES.values())
    others = {name for name in make(kind).state_dict() if name not in known}
    assert all(name.startswith("steps.") for name in others)
    assert bool(others) == (kind == "sgr")


def test_bad_input_is_refused() -> None:
    regions, words = batch(torch.float32)
    for settings in ({"dim": 0}, {"similarity_dim": 0}, {"steps": 0}, {"regions": 0}, {"dropout": 1.0}):
        with pytest.raises(CrossAlignError, match=next(iter(settings))):
            SGRScorer(**{"dim": D, **settings})  # type: ignore[arg-type]
    with pytest.raises(CrossAlignError, match="at most 5"):
        SGRScorer(D, K, regions=5)(regions, words)
    with pytest.raises(CrossAlignError, match="made for dim 8"):
        SAFScorer(8, K)(regions, words)
