"""One training step of recipes: loss terms, gradients and buffers. As a script: in one of several processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from crossalign.data.loading import PairSampler, TrainingLoader
from crossalign.data.teachers import TeacherSource
from crossalign.evaluation.scene_words import region_rule
from crossalign.objective import Objective
from crossalign.processes import ALONE, Processes, joined_processes
from crossalign.recipe import load_recipe
from crossalign.sources import Sources
from crossalign.training.assemble import assemble_model
from crossalign.training.step import TrainingModules, TrainingStep


def one_step(
    path: str,
    overrides: list[str],
    processes: Processes = ALONE,
    mini_batch: int | None = None,
    epoch: int = 1,
) -> dict[str, dict[str, Tensor]]:
    """Terms, gradients of all parameters and buffers after the forward and backward pass of a first batch."""
    recipe = load_recipe(path, overrides)
    data = recipe.data
    sources = Sources.open(data.collection, data.image_features, data.text_features)
    model = assemble_model(recipe, sources)
    split, images, texts = sources.split(model, data.train)
    words = model.text_tower.tokenizer
    objective = Objective(recipe.objective, model.config, vocabulary=words.size if words else 0)
    sampler = PairSampler(split, recipe.training.batch_size, recipe.seed)
    teachers = None
    if data.teachers is not None:
        teachers = TeacherSource.open(sources.collection, split, data.teachers.images, data.teachers.texts)
    loader = TrainingLoader(split, images, texts, sampler, teachers=teachers, processes=processes)
    modules = TrainingModules(model, objective, region_rule(model, sources), processes)
    # In double precision, so that nothing but the order of sums may differ.
    fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
    fabric.setup_module(modules)
    step = TrainingStep(fabric, modules, mini_batch)
    modules.train()
    objective.begin_epoch(epoch)
    torch.manual_seed(0)
    terms, numbers = step.forward(next(iter(loader)), True)
    step.backward(objective.total(terms))
    return {
        "terms": {name: value.detach() for name, value in (terms | numbers).items()},
        "gradients": {
            name: value.grad for name, value in modules.named_parameters() if value.grad is not None
        },
        "buffers": dict(modules.named_buffers()),
    }


if __name__ == "__main__":
    recipe_path, out, cases = sys.argv[1:]
    with joined_processes("cpu") as group:
        found = {
            name: one_step(recipe_path, chosen, group, mini_batch)
            for name, (chosen, mini_batch) in json.loads(cases).items()
        }
        torch.save(found, Path(out) / f"{group.rank}.pt")
