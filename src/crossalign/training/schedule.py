"""Optimiser and learning-rate schedule of a run."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from crossalign.recipe import OptimizerSettings
from crossalign.training.fine_tuning import pretrained_networks

__all__ = ["build_optimizer", "build_schedule"]


def build_optimizer(model: nn.Module, objective: nn.Module, settings: OptimizerSettings) -> Optimizer:
    """AdamW or Adam over everything that trains.

    Fine-tuned networks get their own learning rate, and with ``layer_decay`` each of their blocks a smaller one than
    the next; what low-rank adaptation adds is new and learns like everything new. Vectors and scalars (biases, norms,
    temperatures) and LCA's codebook, whose rows are unit norm by construction, are not decayed.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    backbone_rate = settings.backbone_learning_rate or settings.learning_rate / 10
    below = _blocks_above(model)
    named = [*model.named_parameters(), *objective.named_parameters()]
    for name, parameter in named:
        if not parameter.requires_grad and not name.endswith("codebook"):
            continue
        rate = settings.learning_rate
        if name in below:
            rate = backbone_rate * settings.layer_decay ** below[name]
        decay = 0.0 if parameter.dim() < 2 or name.endswith("codebook") else settings.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(
        [
            {"params": group, "lr": rate, "weight_decay": decay}
            for (rate, decay), group in sorted(groups.items())
        ]
    )


def _blocks_above(model: nn.Module) -> dict[str, int]:
    """For each parameter of a pretrained network, how many steps of depth it stands below the network's end."""
    steps: dict[str, int] = {}
    for network in pretrained_networks(model):
        depths, blocks = network.depths()
        steps |= {name: blocks + 1 - depth for name, depth in depths.items()}
    return steps


def build_schedule(
    optimizer: Optimizer, settings: OptimizerSettings, *, steps_per_epoch: int, epochs: int
) -> LambdaLR:
    """Linear warm-up, then constant, stepwise or cosine decay; one value a step."""
    total = steps_per_epoch * epochs

    def factor(step: int) -> float:
        if step < settings.warmup_steps:
            return (step + 1) / (settings.warmup_steps + 1)
        if settings.schedule == "step":
            return settings.gamma ** sum(step >= epoch * steps_per_epoch for epoch in settings.milestones)
        if settings.schedule == "cosine":
            progress = (step - settings.warmup_steps) / max(total - settings.warmup_steps, 1)
            wave = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
            return settings.final_fraction + (1 - settings.final_fraction) * wave
        return 1.0

    return LambdaLR(optimizer, factor)
