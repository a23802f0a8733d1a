"""Which parameters get which rate and decay, and how the rate moves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from crossalign.recipe import OptimizerSettings
from crossalign.training.schedule import build_optimizer, build_schedule


class Model(nn.Module):
    """The names that the two towers have, in small."""

    def __init__(self) -> None:
        super().__init__()
        self.image_tower = nn.Module()
        self.image_tower.backbones = nn.ModuleList([nn.Linear(2, 3)])
        self.image_tower.encoder = nn.Linear(3, 2)
        self.text_tower = nn.Module()
        self.text_tower.backbone = nn.Linear(2, 2)
        self.text_tower.encoder = nn.Sequential(nn.Embedding(4, 2), nn.BatchNorm1d(2))


class Terms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.05))
        self.lca = nn.Module()
        self.lca.codebook = nn.Parameter(torch.randn(5, 2))


def settings(**changes: Any) -> OptimizerSettings:
    return OptimizerSettings.model_validate(changes)


def groups(model: nn.Module, terms: nn.Module, chosen: OptimizerSettings) -> dict[str, tuple[float, float]]:
    """Rate and decay of every parameter by name."""
    optimizer = build_optimizer(model, terms, chosen)
    names = {id(p): name for module in (model, terms) for name, p in module.named_parameters()}
    placed = [
        (names[id(p)], (group["lr"], group["weight_decay"]))
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    assert len(placed) == len(dict(placed)), "a parameter stands in two groups"
    return dict(placed)


def test_matrices_decay_vectors_scalars_and_the_codebook_do_not() -> None:
    found = groups(Model(), Terms(), settings(learning_rate=0.01, weight_decay=0.1))
    assert found == {
        "image_tower.backbones.0.weight": (0.001, 0.1),
        "image_tower.backbones.0.bias": (0.001, 0.0),
        "image_tower.encoder.weight": (0.01, 0.1),
        "image_tower.encoder.bias": (0.01, 0.0),
        "text_tower.backbone.weight": (0.001, 0.1),
        "text_tower.backbone.bias": (0.001, 0.0),
        "text_tower.encoder.0.weight": (0.01, 0.1),
        "text_tower.encoder.1.weight": (0.01, 0.0),
        "text_tower.encoder.1.bias": (0.01, 0.0),
        "temperature": (0.01, 0.0),
        "lca.codebook": (0.01, 0.0),
    }


def test_backbones_have_a_rate_of_their_own() -> None:
    found = groups(Model(), Terms(), settings(learning_rate=0.01, backbone_learning_rate=0.5))
    assert {name for name, (rate, _) in found.items() if rate == 0.5} == {
        name for name, _ in Model().named_parameters() if "backbone" in name
    }


def test_what_is_frozen_is_left_out_but_the_codebook_that_thaws_later_is_not() -> None:
    model, terms = Model(), Terms()
    model.image_tower.backbones.requires_grad_(False)
    terms.requires_grad_(False)
    found = groups(model, terms, settings())
    assert "lca.codebook" in found
    assert "temperature" not in found
    assert not any("backbones" in name for name in found)


def test_both_optimisers_step_as_pytorchs_own() -> None:
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        layer, nothing = nn.Linear(2, 2, bias=False), nn.Module()
        expected = nn.Linear(2, 2, bias=False)
        expected.load_state_dict(layer.state_dict())
        chosen = settings(name=name, learning_rate=0.1, weight_decay=0.3)
        for module, optimizer in (
            (layer, build_optimizer(layer, nothing, chosen)),
            (expected, kind(expected.parameters(), lr=0.1, weight_decay=0.3)),
        ):
            for _ in range(3):
                optimizer.zero_grad()
                module(torch.ones(1, 2)).pow(2).sum().backward()
                optimizer.step()
        torch.testing.assert_close(layer.weight, expected.weight)


def rates(steps: int, *, steps_per_epoch: int = 4, epochs: int = 3, **changes: Any) -> list[float]:
    """The rate of each step, for a base rate of 1."""
    chosen = settings(learning_rate=1.0, **changes)
    optimizer = build_optimizer(nn.Linear(1, 1), nn.Module(), chosen)
    schedule = build_schedule(optimizer, chosen, steps_per_epoch=steps_per_epoch, epochs=epochs)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_constant_with_a_linear_start() -> None:
    assert rates(5, schedule="constant") == [1.0] * 5
    assert rates(6, schedule="constant", warmup_steps=3) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_steps_fall_after_the_epochs_named() -> None:
    found = rates(12, schedule="step", milestones=(1, 2), gamma=0.5)
    assert found == [1.0] * 4 + [0.5] * 4 + [0.25] * 4
    found = rates(6, schedule="step", milestones=(1,), gamma=0.5, warmup_steps=1)
    assert found == [0.5, 1, 1, 1, 0.5, 0.5]


def test_the_cosine_runs_from_the_whole_rate_to_its_last_share() -> None:
    found = rates(13, schedule="cosine")
    assert found == pytest.approx([(1 + math.cos(math.pi * step / 12)) / 2 for step in range(13)])
    assert found[6] == pytest.approx(0.5)
    assert found[12] == pytest.approx(0.0)
    found = rates(14, schedule="cosine", warmup_steps=2, final_fraction=0.1)
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert found[7] == pytest.approx(0.1 + 0.9 / 2)
    # It stays at its end if a run goes on.
    assert found[12:] == pytest.approx([0.1, 0.1])
    assert found[2:] == sorted(found[2:], reverse=True)


def test_a_warm_up_as_long_as_the_run_is_still_a_warm_up() -> None:
    found = rates(12, schedule="cosine", warmup_steps=12)
    assert found == pytest.approx([(step + 1) / 13 for step in range(12)])


def test_each_group_keeps_its_share_of_the_rate() -> None:
    chosen = settings(learning_rate=0.1, backbone_learning_rate=0.02, schedule="cosine")
    optimizer = build_optimizer(Model(), Terms(), chosen)
    schedule = build_schedule(optimizer, chosen, steps_per_epoch=5, epochs=2)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert sorted({round(group["lr"], 6) for group in optimizer.param_groups}) == [0.01, 0.05]
