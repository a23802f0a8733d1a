"""Caption generation against plain loops, and what it learns."""

from __future__ import annotations

import math

import plain_encoders as plain
import pytest
import torch
from plain_encoders import MASKS
from torch import Tensor, nn

from crossalign.encoders.caption_decoder import CaptionGeneration
from crossalign.errors import CrossAlignError

B, N, D, W, H, V = 5, 6, 7, 4, 8, 9
TOKENS = torch.randint(0, V, (B, W), generator=torch.Generator().manual_seed(5))
TOKEN_MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()


def context(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(B, N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def build(dtype: torch.dtype = torch.float64, dropout: float = 0.0) -> CaptionGeneration:
    torch.manual_seed(1)
    return CaptionGeneration(D, V, hidden=H, word_dim=3, dropout=dropout).to(dtype)


def cell_step(cell: nn.GRUCell, row: Tensor, state: Tensor) -> Tensor:
    inputs, hidden = cell.weight_ih @ row + cell.bias_ih, cell.weight_hh @ state + cell.bias_hh
    reset, keep = torch.sigmoid(inputs[:H] + hidden[:H]), torch.sigmoid(inputs[H : 2 * H] + hidden[H : 2 * H])
    return (1 - keep) * torch.tanh(inputs[2 * H :] + reset * hidden[2 * H :]) + keep * state


def plain_loss(
    module: CaptionGeneration, units: Tensor, mask: Tensor, tokens: Tensor, token_mask: Tensor
) -> Tensor:
    captions = []
    for i in range(B):
        regions, words = units[i][mask[i]], tokens[i][token_mask[i]].tolist()
        if not len(regions) or not words:
            continue
        states = plain.gru_states(module.reader, plain.linear(module.projection, plain.unit(regions)))
        state, previous, total = states[-1], 0, units.new_zeros(())
        for word in [*(word + 1 for word in words), 0]:
            scores = []
            for seen in states:
                inside = plain.linear(module.attention_units, seen) + module.attention_state.weight @ state
                scores.append(module.attention.weight[0] @ torch.tanh(inside))
            weights = torch.stack(scores).exp()
            looked = (weights / weights.sum()) @ torch.stack(states)
            state = cell_step(module.cell, torch.cat([module.words.weight[previous], looked]), state)
            logits = plain.linear(module.output, state)
            total = total - (logits[word] - logits.logsumexp(dim=0))
            previous = word
        captions.append(total)
    return torch.stack(captions).mean()


@pytest.mark.parametrize("token_mask", [torch.ones_like(TOKEN_MASK), TOKEN_MASK], ids=["all", "scattered"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_equals_plain_loops(mask: Tensor, token_mask: Tensor) -> None:
    module = build()
    ours, theirs = context().requires_grad_(), context().requires_grad_()
    loss = module(ours, mask, TOKENS, token_mask)
    expected = plain_loss(module, theirs, mask, TOKENS, token_mask)
    torch.testing.assert_close(loss, expected)
    inputs = list(module.parameters())
    first = torch.autograd.grad(loss, [ours, *inputs])
    for one, other in zip(first, torch.autograd.grad(expected, [theirs, *inputs]), strict=True):
        torch.testing.assert_close(one, other)
        assert one.abs().sum() > 0


@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
@pytest.mark.parametrize("mask", ["front", "scattered", "empty"])
def test_padding_has_no_influence(mask: str, garbage: float) -> None:
    results = []
    for fill, word in ((0.0, 0), (garbage, 10**6)):
        module = build(torch.float32, dropout=0.3)
        leaf = context(torch.float32).masked_fill(~MASKS[mask].unsqueeze(-1), fill).requires_grad_()
        torch.manual_seed(3)
        loss = module(leaf, MASKS[mask], TOKENS.masked_fill(~TOKEN_MASK, word), TOKEN_MASK)
        loss.backward()
        results.append([loss, leaf.grad, *(parameter.grad for parameter in module.parameters())])
    for clean, dirty in zip(*results, strict=True):
        assert clean.isfinite().all()
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize("empty", ["region", "word"])
def test_batch_with_nothing_to_tell_is_zero(empty: str) -> None:
    module, leaf = build(torch.float32), context(torch.float32).requires_grad_()
    mask, token_mask = MASKS["all"], torch.ones_like(TOKEN_MASK)
    none = torch.zeros_like(mask if empty == "region" else token_mask)
    loss = module(leaf, none, TOKENS, token_mask) if empty == "region" else module(leaf, mask, TOKENS, none)
    loss.backward()
    assert loss.item() == 0
    assert leaf.grad is None or leaf.grad.abs().sum() == 0
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in module.parameters())


def test_a_new_decoder_guesses_and_a_trained_one_knows() -> None:
    module, units, mask = build(torch.float32), context(torch.float32), MASKS["all"]
    tokens, token_mask = TOKENS[:, :3], torch.ones(B, 3, dtype=torch.bool)
    start = module(units, mask, tokens, token_mask).item()
    assert start == pytest.approx(4 * math.log(V + 1), rel=0.2)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(80):
        optimiser.zero_grad()
        loss = module(units, mask, tokens, token_mask)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.2
    # It tells the images apart: other images' captions are unlikely.
    assert module(units.roll(1, dims=0), mask, tokens, token_mask).item() > start


def test_autocast() -> None:
    module = build(torch.float32)
    expected = module(context(torch.float32), MASKS["empty"], TOKENS, TOKEN_MASK)
    leaf = context(torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module(leaf, MASKS["empty"], TOKENS, TOKEN_MASK)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "dim is 0"),
        ({"vocabulary": 0}, "vocabulary is 0"),
        ({"hidden": -1}, "hidden is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(CrossAlignError, match=message):
        CaptionGeneration(**({"dim": D, "vocabulary": V} | settings))  # type: ignore[arg-type]
