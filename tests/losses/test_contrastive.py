"""The contrastive loss against plain loops, and its temperature."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.losses import ContrastiveLoss

IDS = torch.tensor([1, 2, 1, 3, 2, 1, 4])
B, D = 7, 9


def plain_contrastive(scores: Tensor, temperature: float, ids: list[int]) -> Tensor:
    total = scores.new_zeros(())
    for direction in (scores, scores.T):
        for i in range(len(ids)):
            partition = torch.exp(direction[i] / temperature).sum()
            positives = [j for j in range(len(ids)) if ids[j] == ids[i]]
            for j in positives:
                total = total - torch.log(torch.exp(direction[i, j] / temperature) / partition) / len(
                    positives
                )
    return total / (2 * len(ids))


def embeddings(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, B, D, generator=generator, dtype=torch.float64).to(dtype)
    return image, text


@pytest.mark.parametrize("ids", [None, IDS], ids=["distinct", "shared"])
@pytest.mark.parametrize("temperature", [0.03, 0.1])
@pytest.mark.parametrize("reduction", ["standard", "paper"])
def test_equals_plain_loops(
    reduction: Literal["standard", "paper"], temperature: float, ids: Tensor | None
) -> None:
    image, text = (tensor.requires_grad_() for tensor in embeddings())
    module = ContrastiveLoss(temperature, reduction).double()
    with torch.no_grad():
        module.temperature.fill_(temperature)
    loss = module(image, text, ids)
    gradients = torch.autograd.grad(loss, (image, text))
    names = list(range(B)) if ids is None else ids.tolist()
    scores = (image / image.norm(dim=1, keepdim=True)) @ (text / text.norm(dim=1, keepdim=True)).T
    expected = plain_contrastive(scores, temperature, names) / (B if reduction == "paper" else 1)
    torch.testing.assert_close(loss, expected)
    for ours, plain in zip(gradients, torch.autograd.grad(expected, (image, text)), strict=True):
        torch.testing.assert_close(ours, plain)


def test_scores_of_any_scale_are_taken_as_they_are() -> None:
    image, text = embeddings(torch.float32)
    loss = ContrastiveLoss(0.1).from_scores(image @ text.T, IDS)
    expected = plain_contrastive(image.double() @ text.double().T, 0.1, IDS.tolist())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


def test_without_ids_it_is_cross_entropy_with_the_diagonal() -> None:
    image, text = embeddings(torch.float32)
    logits = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T / 0.05
    diagonal = torch.arange(B)
    expected = (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2
    torch.testing.assert_close(ContrastiveLoss()(image, text), expected)


def test_finite_differences_with_the_temperature() -> None:
    image, text = (tensor.requires_grad_() for tensor in embeddings())
    module = ContrastiveLoss(0.07).double()

    def loss(i: Tensor, t: Tensor, temperature: Tensor) -> Tensor:
        result = torch.func.functional_call(module, {"temperature": temperature}, (i, t, IDS))
        assert isinstance(result, Tensor)
        return result

    module.temperature.requires_grad_(False)
    temperature = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)
    gradients = torch.autograd.grad(loss(image, text, temperature), (image, text, temperature))
    for tensor, gradient in zip((image, text, temperature), gradients, strict=True):
        flat = tensor.detach().view(-1)
        kept = flat[0].item()
        values = []
        for step in (1e-6, -1e-6):
            flat[0] = kept + step
            values.append(loss(image, text, temperature.detach()).item())
        flat[0] = kept
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(gradient.view(-1)[0].item(), rel=1e-5)


def test_temperature_returns_into_its_range_and_learns_there() -> None:
    image, text = embeddings(torch.float32)
    module = ContrastiveLoss(0.05)
    for outside, bound in ((0.5, 0.1), (1e-4, 0.01), (-1.0, 0.01)):
        with torch.no_grad():
            module.temperature.fill_(outside)
        module.temperature.grad = None
        module(image, text).backward()
        assert module.temperature.item() == pytest.approx(bound)
        assert module.temperature.grad is not None
        assert module.temperature.grad.abs() > 0


def test_two_calls_before_one_backward() -> None:
    image, text = embeddings(torch.float32)
    module = ContrastiveLoss()
    (module(image, text) + module(image, text, IDS)).backward()
    assert module.temperature.grad is not None
    assert module.temperature.grad.isfinite()


def test_fixed_temperature_is_neither_learnt_nor_clamped() -> None:
    image, text = embeddings(torch.float32)
    module = ContrastiveLoss(0.5, learnable=False)
    assert not module(image, text).requires_grad
    scores = F.normalize(image.double(), dim=1) @ F.normalize(text.double(), dim=1).T
    expected = plain_contrastive(scores, 0.5, list(range(B)))
    torch.testing.assert_close(module(image, text).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(dtype: torch.dtype) -> None:
    image, text = embeddings(dtype)
    expected = ContrastiveLoss()(image.float(), text.float(), IDS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = ContrastiveLoss()(image, text, IDS)
    assert torch.equal(result, expected)
    # Scores over a temperature of 0.05 would not fit into half precision.
    scores = torch.full((3, 3), 6e4, dtype=torch.float16).requires_grad_()
    loss = ContrastiveLoss().from_scores(scores)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_degenerate_batches_are_finite() -> None:
    image, text = embeddings(torch.float32)
    assert ContrastiveLoss()(image[:1], text[:1]).item() == 0.0
    same = ContrastiveLoss(0.1)(image, image[:1].expand(B, -1), torch.zeros(B))
    assert same.isfinite()
    zero = torch.zeros(B, D, requires_grad=True)
    loss = ContrastiveLoss()(zero, text)
    loss.backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()
    # Every score is equal: images spread evenly over seven texts, and the other way round.
    assert loss.item() == pytest.approx(math.log(B), rel=1e-5)


def test_bad_input_is_refused() -> None:
    with pytest.raises(CrossAlignError, match=r"lies in 0\.01\.\.0\.1"):
        ContrastiveLoss(0.2)
    with pytest.raises(CrossAlignError, match="temperature is 0"):
        ContrastiveLoss(0.0, learnable=False)
    with pytest.raises(CrossAlignError, match="'mean'; choose 'standard' or 'paper'"):
        ContrastiveLoss(reduction="mean")  # type: ignore[arg-type]
    with pytest.raises(CrossAlignError, match="square"):
        ContrastiveLoss()(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(CrossAlignError, match="one id a pair"):
        ContrastiveLoss()(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(2))
