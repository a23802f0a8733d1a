"""Dropping units and replacing words."""

from __future__ import annotations

import torch

from crossalign.encoders.unit_dropout import drop_units, replace_tokens


def test_dropped_share_survivor_and_padding() -> None:
    torch.manual_seed(0)
    mask = torch.arange(20) < torch.tensor([20, 5, 1, 0]).repeat(500)[:, None]
    kept = drop_units(mask, 0.3)
    assert not (kept & ~mask).any()
    assert (kept.any(dim=1) == mask.any(dim=1)).all()
    share = kept[::4].float().mean().item()
    assert abs(share - 0.7) < 0.02


def test_at_least_one_stays_even_when_almost_all_go() -> None:
    torch.manual_seed(0)
    kept = drop_units(torch.ones(1000, 6, dtype=torch.bool), 0.99)
    assert (kept.sum(dim=1) >= 1).all()
    # The survivor is drawn evenly.
    assert (kept.float().mean(dim=0) - 1 / 6).abs().max() < 0.06


def test_replaced_tokens_are_real_ones() -> None:
    torch.manual_seed(0)
    tokens = torch.full((400, 10), 7)
    mask = torch.arange(10) < 6
    replaced = replace_tokens(tokens, mask.expand(400, 10), 0.25, 1)
    assert (replaced[:, 6:] == 7).all()
    assert abs((replaced[:, :6] == 1).float().mean().item() - 0.25) < 0.03
    assert set(replaced.unique().tolist()) == {1, 7}
