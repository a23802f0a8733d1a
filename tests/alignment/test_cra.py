"""Contextual Relation Alignment against plain loops: the loss, degenerate batches, the context head."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_alignment import plain_nce
from torch import Tensor, nn

from crossalign.alignment import Context, ContextHead, ContextualRelationAlignment, global_to_local_nce
from crossalign.errors import CrossAlignError

B, N, D = 6, 5, 8
MASK = torch.arange(N) < torch.tensor([5, 2, 1, 4, 5, 3]).unsqueeze(1)
SCATTERED = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 1], [0, 0, 1, 0, 0]] + [[1] * 5] * 3).bool()
IDS = torch.tensor([7, 3, 7, 5, 3, 7])


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    queries = torch.rand(B, D, generator=generator, dtype=torch.float64)
    keys = torch.rand(B, N, D, generator=generator, dtype=torch.float64)
    return F.normalize(queries, dim=-1).to(dtype), F.normalize(keys, dim=-1).to(dtype)


def with_gradients(
    function: Any, tensors: tuple[Tensor, ...], *arguments: Any, **settings: Any
) -> list[Tensor]:
    """The loss and its gradients."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    loss = function(*leaves, *arguments, **settings)
    loss.backward()
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert len(gradients) == len(leaves)
    return [loss.detach(), *gradients]


@pytest.mark.parametrize("ids", [None, IDS], ids=["distinct", "shared"])
@pytest.mark.parametrize("mask", [None, MASK, SCATTERED], ids=["all", "front", "scattered"])
@pytest.mark.parametrize("hard", [None, 1, 4, 12, 512])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_plain_loops(
    dtype: torch.dtype, hard: int | None, mask: Tensor | None, ids: Tensor | None
) -> None:
    arguments = (mask, 0.3, hard, ids)
    result = with_gradients(global_to_local_nce, batch(dtype), *arguments)
    expected = with_gradients(plain_nce, batch(dtype), *arguments)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    for ours, plain in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mask", [None, MASK, SCATTERED], ids=["all", "front", "scattered"])
@pytest.mark.parametrize("hard", [None, 1, 4, 512])
def test_named_items_belong_to_every_query_of_their_name(hard: int | None, mask: Tensor | None) -> None:
    queries, keys = batch()
    names = {
        "one of each": (torch.tensor([0, 4, 1, 3, 2, 5]), torch.arange(B)),
        "shared queries": (torch.tensor([1, 0, 1, 4, 2, 1]), torch.arange(B)),
        "shared items": (torch.arange(B), torch.tensor([1, 0, 1, 4, 2, 1])),
        "both": (IDS, torch.tensor([3, 7, 7, 2, 3, 5])),
    }
    for ids, local_ids in names.values():
        settings = {"ids": ids, "local_ids": local_ids}
        result = with_gradients(global_to_local_nce, (queries, keys), mask, 0.5, hard, **settings)
        expected = with_gradients(plain_nce, (queries, keys), mask, 0.5, hard, **settings)
        for ours, plain in zip(result, expected, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


def test_an_image_of_several_texts_is_one_image_among_the_negatives() -> None:
    """Repeated, its locals would fill the hardest negatives with copies of themselves."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    images, texts = (F.normalize(torch.rand(n, N, D, generator=generator), dim=-1) for n in (3, len(rows)))
    guides, text_guides = images[:, 0], texts[:, 0]
    once = ContextualRelationAlignment(0.5, 4)(guides, images, text_guides, texts, image_rows=rows)
    one = plain_nce(text_guides, images, None, 0.5, 4, rows, torch.arange(3))
    two = plain_nce(guides, texts, None, 0.5, 4, torch.arange(3), rows)
    torch.testing.assert_close(once, (one + two) / 2)
    repeated = ContextualRelationAlignment(0.5, 4)(guides[rows], images[rows], text_guides, texts, ids=rows)
    assert (once - repeated).abs() > 1e-3


def test_hand_computed_case() -> None:
    # Two pairs with one local each: every query meets one positive of score 1 and one negative of score 0.
    queries = torch.eye(2)
    loss = global_to_local_nce(queries, queries.unsqueeze(1), temperature=0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))


@pytest.mark.parametrize("hard", [None, 3])
def test_finite_differences(hard: int | None) -> None:
    queries, keys = batch()

    def scaled(q: Tensor, k: Tensor) -> Tensor:
        return global_to_local_nce(q, k, MASK, 0.7, hard, IDS) * 3.0

    assert torch.autograd.gradcheck(scaled, (queries.requires_grad_(), keys.requires_grad_()))


@pytest.mark.parametrize("hard", [None, 4])
@pytest.mark.parametrize("garbage", [1e4, -3e38, float("nan"), float("inf")])
def test_padded_locals_have_no_influence(garbage: float, hard: int | None) -> None:
    queries, keys = batch(torch.float32)
    expected = with_gradients(global_to_local_nce, (queries, keys), MASK, 0.7, hard)
    keys = keys.masked_fill(~MASK.unsqueeze(-1), garbage)
    result = with_gradients(global_to_local_nce, (queries, keys), MASK, 0.7, hard)
    for ours, clean in zip(result, expected, strict=True):
        assert torch.equal(ours, clean)
    assert result[2][~MASK].abs().sum() == 0


@pytest.mark.parametrize("hard", [None, 4])
def test_padded_batch_equals_the_unpadded_one(hard: int | None) -> None:
    queries, keys = batch(torch.float32)
    expected = with_gradients(global_to_local_nce, (queries, keys), None, 0.7, hard)
    padded = (queries, F.pad(keys, (0, 0, 0, 4), value=1e4))
    mask = (torch.arange(N + 4) < N).expand(B, -1)
    result = with_gradients(global_to_local_nce, padded, mask, 0.7, hard)
    result[2] = result[2][:, :N]
    for ours, plain in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("hard", [None, 4, 512])
@pytest.mark.parametrize("case", ["one pair", "one image"])
def test_without_negatives_the_loss_and_its_gradients_are_zero(case: str, hard: int | None) -> None:
    queries, keys = batch(torch.float32)
    if case == "one pair":
        tensors, ids = (queries[:1], keys[:1]), None
    else:
        tensors, ids = (queries, keys), torch.full((B,), 4)
    for tensor in with_gradients(global_to_local_nce, tensors, None, 0.7, hard, ids):
        assert tensor.abs().sum() == 0


@pytest.mark.parametrize("hard", [None, 2])
def test_pair_without_real_locals_adds_no_term_and_no_negative(hard: int | None) -> None:
    queries, keys = batch()
    mask = MASK.clone()
    mask[2] = False
    result = with_gradients(global_to_local_nce, (queries, keys), mask, 0.7, hard)
    rest = torch.tensor([0, 1, 3, 4, 5])
    expected = with_gradients(global_to_local_nce, (queries[rest], keys[rest]), mask[rest], 0.7, hard)
    torch.testing.assert_close(result[0], expected[0])
    torch.testing.assert_close(result[1][rest], expected[1])
    assert result[1][2].abs().sum() == 0
    assert result[2][2].abs().sum() == 0


def test_batch_without_any_real_local_is_zero() -> None:
    mask = torch.zeros(B, N, dtype=torch.bool)
    for tensor in with_gradients(global_to_local_nce, batch(torch.float32), mask):
        assert tensor.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(dtype: torch.dtype) -> None:
    tensors = batch(dtype)
    single = tuple(tensor.float() for tensor in tensors)
    expected = with_gradients(global_to_local_nce, single, MASK, 0.7, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(global_to_local_nce(*tensors, MASK, 0.7, 3), expected[0])
    result = with_gradients(global_to_local_nce, tensors, MASK, 0.7, 3)
    for ours, plain in zip(result[1:], expected[1:], strict=True):
        assert torch.equal(ours, plain.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_extreme_scores_give_finite_values(dtype: torch.dtype) -> None:
    queries, keys = (tensor * 1e3 for tensor in batch(dtype))
    for tensor in with_gradients(global_to_local_nce, (queries, keys), None, 0.01, 4):
        assert tensor.isfinite().all()


def test_module_is_the_mean_of_both_directions() -> None:
    generator = torch.Generator().manual_seed(2)
    image_guide, text_guide = torch.rand(2, B, D, generator=generator, dtype=torch.float64)
    image_keys = torch.rand(B, N, D, generator=generator, dtype=torch.float64)
    text_keys = torch.rand(B, N + 2, D, generator=generator, dtype=torch.float64)
    text_mask = torch.arange(N + 2) < torch.tensor([7, 1, 3, 6, 2, 4]).unsqueeze(1)
    loss = ContextualRelationAlignment(temperature=0.4, hard_negatives=9)(
        image_guide, image_keys, text_guide, text_keys, MASK, text_mask, IDS
    )
    texts = plain_nce(text_guide, image_keys, MASK, 0.4, 9, IDS)
    images = plain_nce(image_guide, text_keys, text_mask, 0.4, 9, IDS)
    torch.testing.assert_close(loss, (texts + images) / 2)


def test_texts_of_one_image_are_each_others_negatives_where_pairs_know_no_other() -> None:
    generator = torch.Generator().manual_seed(3)
    image_guide, image_keys, text_guide, text_keys = (
        torch.rand(*shape, D, generator=generator, dtype=torch.float64)
        for shape in ((2,), (2, 3), (4,), (4, 5))
    )
    image_mask = torch.tensor([[True, True, False], [True, True, True]])
    text_mask = torch.arange(5) < torch.tensor([[5], [2], [3], [4]])
    rows = torch.tensor([0, 0, 1, 1])
    cra = ContextualRelationAlignment(0.5, 6, multi_positive=False)
    expected = (
        plain_nce(text_guide, image_keys[rows], image_mask[rows], 0.5, 6)
        + plain_nce(image_guide[rows], text_keys, text_mask, 0.5, 6)
    ) / 2
    given = (text_guide, text_keys)
    one = cra(image_guide, image_keys, *given, image_mask, text_mask, image_rows=rows)
    torch.testing.assert_close(one, expected)
    pairs = (image_guide[rows], image_keys[rows], *given, image_mask[rows], text_mask)
    torch.testing.assert_close(cra(*pairs, ids=rows), expected)
    apart, together = (
        ContextualRelationAlignment(0.5, None, multi_positive=multi)(
            image_guide, image_keys, *given, image_mask, text_mask, image_rows=rows
        )
        for multi in (False, True)
    )
    assert together < apart, "the same terms, with fewer negatives"


def test_non_negative_keys_bound_the_loss() -> None:
    generator = torch.Generator().manual_seed(5)
    keys = F.normalize(torch.rand(40, 15, 6, generator=generator), dim=-1)
    loss = global_to_local_nce(F.normalize(torch.rand(40, 6, generator=generator), dim=-1), keys)
    # A positive of 1 against 512 negatives of 0, and the other way round.
    assert math.log(1 + 512 * math.exp(-1 / 0.7)) <= loss <= math.log(1 + 512 * math.exp(1 / 0.7))


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(CrossAlignError, match="temperature is 0"):
        ContextualRelationAlignment(temperature=0.0)
    with pytest.raises(CrossAlignError, match="hard_negatives is 0"):
        ContextualRelationAlignment(hard_negatives=0)
    for settings in ({"temperature": -1.0}, {"hard_negatives": 0}, {"hard_negatives": -25}):
        with pytest.raises(CrossAlignError, match="give "):
            global_to_local_nce(*batch(), **settings)
    with pytest.raises(CrossAlignError, match="one id a pair"):
        global_to_local_nce(*batch(), ids=IDS[:3])


def make_head(dtype: torch.dtype = torch.float64) -> ContextHead:
    torch.manual_seed(4)
    head = ContextHead(D)
    for norm in (head.guide_norm, head.key_norm):
        nn.init.normal_(norm.weight, 1.0, 0.3)
        nn.init.normal_(norm.bias, 0.2, 0.3)
    return head.to(dtype)


def plain_head(head: ContextHead, context: Tensor, mask: Tensor) -> list[list[Tensor]]:
    """Guide, keys, fused and mean key of each item that has units; batch statistics over real units only."""

    def norm(layer: nn.BatchNorm1d, rows: Tensor) -> Tensor:
        deviation = rows - rows.mean(dim=0)
        variance = (deviation * deviation).mean(dim=0)
        return deviation / (variance + layer.eps).sqrt() * layer.weight + layer.bias

    items = [context[i][mask[i]] for i in range(len(context)) if mask[i].any()]
    means = torch.stack([item.mean(dim=0) for item in items])
    guides = norm(head.guide_norm, means @ head.guide.weight.T + head.guide.bias).clamp(min=0)
    keys = norm(head.key_norm, torch.cat(items)).clamp(min=0).split([len(item) for item in items])
    hidden, last = head.gate[0], head.gate[2]
    results = []
    for mean, guide, own in zip(means, guides, keys, strict=True):
        inside = (hidden.weight @ torch.cat([mean, guide]) + hidden.bias).clamp(min=0)
        gate = 1 / (1 + torch.exp(-(last.weight @ inside + last.bias)))
        fused = gate * mean + (1 - gate) * guide
        own = own / own.norm(dim=1, keepdim=True)
        results.append([guide / guide.norm(), own, fused / fused.norm(), own.mean(dim=0)])
    return results


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("mask", [torch.ones(B, N, dtype=torch.bool), MASK, SCATTERED])
def test_head_equals_plain_loops(mask: Tensor, empty: bool) -> None:
    context = torch.randn(B, N, D, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    mask = mask.clone()
    mask[3] &= not empty
    head = make_head()
    result = head(context, mask)
    present = [i for i in range(B) if mask[i].any()]
    for i, (guide, keys, fused, mean_key) in zip(present, plain_head(head, context, mask), strict=True):
        torch.testing.assert_close(result.guide[i], guide)
        torch.testing.assert_close(result.keys[i][mask[i]], keys)
        torch.testing.assert_close(result.fused[i], fused)
        torch.testing.assert_close(result.mean_key[i], mean_key)
    assert result.keys[~mask].abs().sum() == 0
    if empty:
        assert all(part[3].abs().sum() == 0 for part in result)


def test_head_keeps_running_statistics_of_real_units() -> None:
    context = torch.randn(B, N, D, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    head = make_head()
    head(context.masked_fill(~MASK.unsqueeze(-1), 1e4), MASK)
    rows = context[MASK]
    torch.testing.assert_close(head.key_norm.running_mean, 0.1 * rows.mean(dim=0))
    torch.testing.assert_close(head.key_norm.running_var, 0.9 + 0.1 * rows.var(dim=0))
    head.eval()
    keys = head(context, MASK).keys[MASK]
    norm = head.key_norm
    scaled = (rows - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(keys, F.normalize(scaled.clamp(min=0), dim=1))


def head_with_gradients(context: Tensor, mask: Tensor | None, training: bool = True) -> tuple[Any, ...]:
    head = make_head(context.dtype).train(training)
    context = context.detach().clone().requires_grad_()
    result = head(context, mask)
    generator = torch.Generator().manual_seed(8)
    total = sum(
        (part.float() * torch.randn(part.shape[-1], generator=generator)).sum()
        for part in (result.guide, result.keys, result.fused, result.mean_key)
    )
    assert isinstance(total, Tensor)
    total.backward()
    return result, context.grad, [p.grad for p in head.parameters()], [b.clone() for b in head.buffers()]


def flat(results: tuple[Any, ...]) -> list[Tensor]:
    outputs, gradient, parameters, buffers = results
    return [*outputs, gradient, *parameters, *buffers]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
def test_padded_units_have_no_influence_on_the_head(garbage: float, training: bool) -> None:
    context = torch.randn(B, N, D, generator=torch.Generator().manual_seed(9))
    clean = head_with_gradients(context.masked_fill(~MASK.unsqueeze(-1), 0.0), MASK, training)
    dirty = head_with_gradients(context.masked_fill(~MASK.unsqueeze(-1), garbage), MASK, training)
    for ours, expected in zip(flat(dirty), flat(clean), strict=True):
        assert torch.equal(ours, expected)
    assert dirty[1][~MASK].abs().sum() == 0


@pytest.mark.parametrize("training", [True, False])
def test_padded_batch_gives_the_head_of_the_unpadded_one(training: bool) -> None:
    context = torch.randn(B, N, D, generator=torch.Generator().manual_seed(10))
    plain = head_with_gradients(context, None, training)
    padded = F.pad(context, (0, 0, 0, 3), value=1e4)
    ours = head_with_gradients(padded, (torch.arange(N + 3) < N).expand(B, -1), training)
    pairs = [
        (ours[0].guide, plain[0].guide),
        (ours[0].keys[:, :N], plain[0].keys),
        (ours[0].fused, plain[0].fused),
        (ours[0].mean_key, plain[0].mean_key),
        (ours[1][:, :N], plain[1]),
        *zip(ours[2], plain[2], strict=True),
        *zip(ours[3], plain[3], strict=True),
    ]
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    "mask",
    [torch.tensor([[True, False]]), torch.tensor([[True, True]]), torch.tensor([[False, False]] * 3)],
    ids=["one unit", "one item", "no unit"],
)
@pytest.mark.parametrize("training", [True, False])
def test_head_of_a_tiny_batch_is_finite(mask: Tensor, training: bool) -> None:
    context = torch.randn(len(mask), 2, D, generator=torch.Generator().manual_seed(11))
    result, gradient, parameters, buffers = head_with_gradients(context, mask, training)
    present = [grad for grad in parameters if grad is not None]
    assert all(tensor.isfinite().all() for tensor in [*result, gradient, *present, *buffers])


def test_head_under_autocast_is_close_and_normalised_in_float32() -> None:
    context = torch.randn(B, N, D, generator=torch.Generator().manual_seed(12))
    expected: Context = make_head(torch.float32)(context, MASK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = make_head(torch.float32)(context.bfloat16(), MASK)
    for ours, single in zip(result, expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, single, rtol=0.1, atol=0.05)
    torch.testing.assert_close(result.fused.norm(dim=1), torch.ones(B))
