"""Local Concept Alignment against plain loops, with masks, dtypes and degenerate batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_alignment import plain_lca
from torch import Tensor

from crossalign.alignment import LocalConceptAlignment, lca_loss, sinkhorn
from crossalign.errors import CrossAlignError

B, R, W, D, K = 5, 6, 7, 12, 10
REGION_MASK = torch.arange(R) < torch.tensor([6, 3, 1, 4, 6]).unsqueeze(1)
WORD_MASK = torch.arange(W) < torch.tensor([4, 7, 1, 3, 6]).unsqueeze(1)
# Real units need not stand in front.
SCATTERED = torch.tensor([[0, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]] + [[1] * 6] * 2).bool()


def batch(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((B, R, D), (B, W, D), (K, D))
    made = [
        F.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1) for shape in shapes
    ]
    return made[0].to(dtype), made[1].to(dtype), made[2].to(dtype)


def with_gradients(
    function: Any, tensors: tuple[Tensor, ...], *arguments: Any, **settings: Any
) -> list[Tensor]:
    """The loss and its gradients; zero where a tensor has none."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    loss = function(*leaves, *arguments, **settings)
    loss.backward()
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    return [loss.detach(), *gradients]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("region_mask", [None, REGION_MASK, SCATTERED], ids=["all", "front", "scattered"])
@pytest.mark.parametrize("word_mask", [None, WORD_MASK], ids=["all", "front"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_plain_loops(
    dtype: torch.dtype, word_mask: Tensor | None, region_mask: Tensor | None, symmetric: bool
) -> None:
    tensors = batch(dtype)
    result = with_gradients(
        lca_loss, tensors, region_mask, word_mask, sinkhorn_iterations=3, symmetric=symmetric
    )
    expected = with_gradients(plain_lca, tensors, region_mask, word_mask, iterations=3, symmetric=symmetric)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    for ours, plain in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        ({"word_temperature": 0.3}, {"word_temperature": 0.3}),
        ({"epsilon": 0.2}, {"epsilon": 0.2}),
        ({"sinkhorn_iterations": 5}, {"iterations": 5}),
    ],
)
def test_settings_have_the_meaning_of_the_formula(settings: dict[str, Any], plain: dict[str, Any]) -> None:
    tensors = batch()
    torch.testing.assert_close(lca_loss(*tensors, **settings), plain_lca(*tensors, **plain))
    assert not torch.isclose(lca_loss(*tensors, **settings), lca_loss(*tensors))


# Five images; image 1 has three texts, image 3 none.
ROWS = torch.tensor([1, 0, 1, 4, 2, 1, 4])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("region_mask", [None, REGION_MASK], ids=["all", "front"])
def test_texts_of_one_image_share_its_regions(region_mask: Tensor | None, symmetric: bool) -> None:
    regions, _, codebook = batch()
    words = F.normalize(torch.randn(len(ROWS), W, D, dtype=torch.float64), dim=-1)
    mask = torch.arange(W) < torch.tensor([3, 1, 2, W, W, 1, 2]).unsqueeze(1)
    settings = {"symmetric": symmetric, "image_rows": ROWS}
    result = with_gradients(lca_loss, (regions, words, codebook), region_mask, mask, **settings)
    expected = with_gradients(
        plain_lca, (regions, words, codebook), region_mask, mask, iterations=2, **settings
    )
    for ours, plain in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("region_mask", [None, REGION_MASK], ids=["all", "front"])
def test_words_take_only_what_they_may(region_mask: Tensor | None, symmetric: bool) -> None:
    regions, _, codebook = batch()
    words = F.normalize(torch.randn(len(ROWS), W, D, dtype=torch.float64), dim=-1)
    mask = torch.arange(W) < torch.tensor([3, 1, 2, W, W, 1, 2]).unsqueeze(1)
    allowed = torch.rand(len(ROWS), W, R, generator=torch.Generator().manual_seed(5)) < 0.3
    allowed[2] = False  # a whole text without a known region
    settings = {"symmetric": symmetric, "image_rows": ROWS, "allowed": allowed}
    result = with_gradients(lca_loss, (regions, words, codebook), region_mask, mask, **settings)
    expected = with_gradients(
        plain_lca, (regions, words, codebook), region_mask, mask, iterations=2, **settings
    )
    for ours, plain in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
    nothing = allowed.any(dim=2) if region_mask is None else (allowed & region_mask[ROWS, None]).any(dim=2)
    assert result[2][~nothing].abs().sum() == 0
    free = with_gradients(lca_loss, (regions, words, codebook), region_mask, mask, image_rows=ROWS)
    assert not torch.isclose(result[0], free[0])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("region_mask", [None, SCATTERED], ids=["all", "scattered"])
def test_past_regions_balance_the_assignment_and_have_no_loss(
    region_mask: Tensor | None, symmetric: bool
) -> None:
    regions, words, codebook = batch()
    past = F.normalize(codebook[:2].repeat(20, 1) + 0.1 * torch.randn(40, D, dtype=torch.float64), dim=1)
    past.requires_grad_()
    settings = {"symmetric": symmetric, "past": past}
    result = with_gradients(lca_loss, (regions, words, codebook), region_mask, WORD_MASK, **settings)
    expected = with_gradients(
        plain_lca, (regions, words, codebook), region_mask, WORD_MASK, iterations=2, **settings
    )
    for ours, plain in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
    assert past.grad is None
    without = with_gradients(lca_loss, (regions, words, codebook), region_mask, WORD_MASK)
    assert not torch.isclose(result[0], without[0])
    nothing = lca_loss(regions, words, codebook, region_mask, WORD_MASK, past=past[:0])
    assert torch.equal(nothing, lca_loss(regions, words, codebook, region_mask, WORD_MASK))


def test_the_module_balances_with_what_it_remembers() -> None:
    (first, _, _), (second, words, _) = batch(torch.float32, 1), batch(torch.float32, 2)
    module = make_module(queue=50)
    settings = {"word_mask": WORD_MASK, "past": first[REGION_MASK]}
    assert torch.equal(module(second, words), lca_loss(second, words, module.codebook))
    module.remember(first.masked_fill(~REGION_MASK.unsqueeze(2), float("nan")), REGION_MASK)
    loss = module(second, words, word_mask=WORD_MASK)
    torch.testing.assert_close(loss, lca_loss(second, words, module.codebook, **settings))
    loss.backward()
    other = make_module(queue=50)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(second, words), module(second, words))
    plain = make_module()
    plain.remember(first)
    assert plain.state_dict().keys() == {"codebook"}
    assert plain.past is None


def test_captions_of_one_image_predict_each_other() -> None:
    _, _, codebook = batch()
    words = F.normalize(torch.randn(len(ROWS), W, D, dtype=torch.float64), dim=-1)
    mask = torch.arange(W) < torch.tensor([3, 1, 2, W, W, 1, 2]).unsqueeze(1)
    module = make_module(epsilon=0.1, word_temperature=0.2, queue=9, symmetric=True).double().eval()
    module.remember(words)
    with torch.no_grad():
        module.codebook.copy_(codebook)
    # Texts 0, 2 and 5 are of image 1, texts 3 and 6 of image 4; who takes a word of whom:
    pairs = [(0, 2), (2, 5), (5, 0), (3, 6), (6, 3)]
    assigned = sinkhorn(words[mask] @ codebook.T, 0.1, 2)
    targets = torch.zeros(len(ROWS), W, K, dtype=torch.float64)
    targets[mask] = assigned
    terms = []
    for one, other in pairs:
        of_text = []
        for word in words[one][mask[one]]:
            taken = int((words[other][mask[other]] @ word).argmax())
            of_text.append(-(targets[other, taken] * (codebook @ word / 0.2).log_softmax(0)).sum())
        terms.append(sum(of_text) / len(of_text))
    spoilt = words.masked_fill(~mask.unsqueeze(2), float("nan")).requires_grad_()
    loss = module.between_captions(spoilt, mask, ROWS)
    torch.testing.assert_close(loss, sum(terms) / len(terms))
    loss.backward()
    assert spoilt.grad is not None
    assert spoilt.grad[~mask].abs().sum() == 0
    assert spoilt.grad[[1, 4]].abs().sum() == 0
    assert all(spoilt.grad[text][mask[text]].abs().sum() > 0 for text in (0, 2, 3, 5, 6))
    assert module.codebook.grad is not None


def test_without_two_captions_of_an_image_the_term_is_zero() -> None:
    _, words, _ = batch(torch.float32)
    words.requires_grad_()
    module = make_module()
    for mask in (None, WORD_MASK):
        loss = module.between_captions(words, mask, torch.arange(B))
        loss.backward()
        assert loss == 0
    assert words.grad is not None
    assert words.grad.abs().sum() == 0


def test_where_every_region_may_be_taken_nothing_changes() -> None:
    tensors = batch(torch.float32)
    everything = torch.ones(B, W, R, dtype=torch.bool)
    for mask in (None, REGION_MASK):
        free = with_gradients(lca_loss, tensors, mask, WORD_MASK)
        allowed = with_gradients(lca_loss, tensors, mask, WORD_MASK, allowed=everything)
        assert all(torch.equal(one, two) for one, two in zip(free, allowed, strict=True))


def test_images_that_stand_once_give_the_loss_of_repeated_ones() -> None:
    regions, words, codebook = batch()
    rows = torch.arange(B).repeat_interleave(3)
    words = F.normalize(torch.randn(len(rows), W, D, dtype=torch.float64), dim=-1)
    once = lca_loss(regions, words, codebook, REGION_MASK, image_rows=rows)
    repeated = lca_loss(regions[rows], words, codebook, REGION_MASK[rows])
    torch.testing.assert_close(once, repeated, rtol=1e-10, atol=1e-10)


def test_finite_differences_of_words() -> None:
    regions, words, codebook = batch()

    def scaled(w: Tensor) -> Tensor:
        return lca_loss(regions, w, codebook, REGION_MASK, WORD_MASK) * 3.0

    assert torch.autograd.gradcheck(scaled, (words.requires_grad_(),))


def test_regions_learn_only_in_the_symmetric_form() -> None:
    assert with_gradients(lca_loss, batch())[1].abs().max() == 0
    assert with_gradients(lca_loss, batch(), symmetric=True)[1].abs().max() > 0


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("garbage", [1e4, -3e38, float("nan"), float("inf")])
def test_padded_units_have_no_influence(garbage: float, symmetric: bool) -> None:
    regions, words, codebook = batch(torch.float32)
    expected = with_gradients(
        lca_loss, (regions, words, codebook), REGION_MASK, WORD_MASK, symmetric=symmetric
    )
    regions = regions.masked_fill(~REGION_MASK.unsqueeze(-1), garbage)
    words = words.masked_fill(~WORD_MASK.unsqueeze(-1), garbage)
    result = with_gradients(lca_loss, (regions, words, codebook), REGION_MASK, WORD_MASK, symmetric=symmetric)
    for ours, clean in zip(result, expected, strict=True):
        assert torch.equal(ours, clean)
    assert result[1][~REGION_MASK].abs().sum() == 0
    assert result[2][~WORD_MASK].abs().sum() == 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_padded_batch_equals_the_unpadded_one(symmetric: bool) -> None:
    regions, words, codebook = batch(torch.float32)
    expected = with_gradients(lca_loss, (regions, words, codebook), symmetric=symmetric)
    padded = (F.pad(regions, (0, 0, 0, 4), value=1e4), F.pad(words, (0, 0, 0, 3), value=1e4), codebook)
    masks = (torch.arange(R + 4) < R).expand(B, -1), (torch.arange(W + 3) < W).expand(B, -1)
    result = with_gradients(lca_loss, padded, *masks, symmetric=symmetric)
    result[1], result[2] = result[1][:, :R], result[2][:, :W]
    for ours, plain in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(dtype: torch.dtype) -> None:
    tensors = batch(dtype)
    single = tuple(tensor.float() for tensor in tensors)
    expected = with_gradients(lca_loss, single, REGION_MASK, WORD_MASK)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            result = with_gradients(lca_loss, tensors, REGION_MASK, WORD_MASK)
        assert result[0].dtype == torch.float32
        assert torch.equal(result[0], expected[0])
        for ours, plain in zip(result[1:], expected[1:], strict=True):
            assert torch.equal(ours, plain.to(dtype))


def test_extreme_vectors_give_finite_values() -> None:
    regions, words, codebook = (tensor * 1e3 for tensor in batch(torch.float32))
    for symmetric in (False, True):
        result = with_gradients(lca_loss, (regions, words, codebook), symmetric=symmetric)
        assert all(tensor.isfinite().all() for tensor in result)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("empty", ["word", "region"])
def test_image_with_nothing_to_align_contributes_nothing(empty: str, symmetric: bool) -> None:
    tensors = batch()
    region_mask, word_mask = REGION_MASK.clone(), WORD_MASK.clone()
    (word_mask if empty == "word" else region_mask)[2] = False
    result = with_gradients(lca_loss, tensors, region_mask, word_mask, symmetric=symmetric)
    expected = with_gradients(plain_lca, tensors, region_mask, word_mask, symmetric=symmetric)
    for ours, plain in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, plain)
    assert result[2][2].abs().sum() == 0


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("empty", ["word", "region", "both"])
def test_batch_with_nothing_to_align_is_zero(empty: str, symmetric: bool) -> None:
    none = torch.zeros(B, W, dtype=torch.bool)
    region_mask = none[:, :R] if empty in ("region", "both") else None
    word_mask = none if empty in ("word", "both") else None
    result = with_gradients(lca_loss, batch(torch.float32), region_mask, word_mask, symmetric=symmetric)
    assert all(tensor.abs().sum() == 0 for tensor in result)


def test_single_pair() -> None:
    regions, words, codebook = batch()
    tensors = (regions[:1], words[:1], codebook)
    torch.testing.assert_close(lca_loss(*tensors), plain_lca(*tensors))


def make_module(**settings: Any) -> LocalConceptAlignment:
    torch.manual_seed(3)
    return LocalConceptAlignment(D, K, **settings)


def test_module_renormalises_in_training_only() -> None:
    regions, words, _ = batch(torch.float32)
    module = make_module()
    torch.testing.assert_close(module.codebook.norm(dim=1), torch.ones(K))
    with torch.no_grad():
        module.codebook.mul_(torch.arange(1.0, K + 1).unsqueeze(1))
    grown = module.codebook.detach().clone()
    module.eval()
    module(regions, words)
    assert torch.equal(module.codebook, grown)
    module.train()
    module(regions, words)
    torch.testing.assert_close(module.codebook.detach(), F.normalize(grown, dim=1))


def test_module_gradient_keeps_the_radial_part() -> None:
    regions, words, _ = batch(torch.float32)
    module = make_module(word_temperature=0.2, epsilon=0.1, sinkhorn_iterations=3)
    module(regions, words, REGION_MASK, WORD_MASK).backward()
    settings = {"word_temperature": 0.2, "epsilon": 0.1, "iterations": 3}
    tensors = (regions, words, module.codebook)
    expected = with_gradients(plain_lca, tensors, REGION_MASK, WORD_MASK, **settings)[3]
    assert module.codebook.grad is not None
    torch.testing.assert_close(module.codebook.grad, expected, rtol=1e-4, atol=1e-6)
    assert (module.codebook.grad * module.codebook).sum(dim=1).abs().max() > 1e-4


def test_module_takes_two_batches_before_one_backward() -> None:
    module = make_module()
    batches = [batch(torch.float32, seed)[:2] for seed in (1, 2)]
    (module(*batches[0]) + module(*batches[1])).backward()
    together = module.codebook.grad
    module.codebook.grad = None
    for regions, words in batches:
        module(regions, words).backward()
    torch.testing.assert_close(together, module.codebook.grad)


def test_frozen_codebook_has_no_gradient_and_words_still_learn() -> None:
    regions, words, _ = batch(torch.float32)
    module = make_module()
    words.requires_grad_()
    module.codebook.requires_grad_(False)
    module(regions, words).backward()
    assert module.codebook.grad is None
    assert words.grad is not None
    assert words.grad.abs().sum() > 0
    module.codebook.requires_grad_(True)
    module(regions, words).backward()
    assert module.codebook.grad is not None


def test_training_lowers_the_loss() -> None:
    regions, words, _ = batch(torch.float32)
    module = make_module()
    words = words.requires_grad_()
    optimiser = torch.optim.Adam([words, module.codebook], lr=0.01)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = module(regions, F.normalize(words, dim=-1))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


def test_senseless_settings_are_refused() -> None:
    for name in ("concepts", "word_temperature", "epsilon", "sinkhorn_iterations"):
        with pytest.raises(CrossAlignError, match=f"{name} is 0"):
            LocalConceptAlignment(D, **{name: 0})
