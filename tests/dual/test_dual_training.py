"""Fine-tuning of tiny dual encoders: it learns, it resumes exactly, what is frozen stays, what is saved is exact."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from crossalign.data.collection import Collection
from crossalign.errors import CrossAlignError
from crossalign.evaluation.of_model import evaluate_model
from crossalign.model import RetrievalModel
from crossalign.objective import Objective
from crossalign.recipe import Recipe
from crossalign.sources import Sources
from crossalign.training.assemble import assemble_model
from crossalign.training.fine_tuning import checkpoint_gradients, freeze_blocks
from crossalign.training.schedule import build_optimizer
from crossalign.training.trainer import train
from interrupted_training import interrupted
from tiny_dual import WIDTH, write_open_clip, write_transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from photo_collection import write_collection


@pytest.fixture
def collection(tmp_path: Path, tiny_photos: Callable[..., Any]) -> Collection:
    return write_collection(tmp_path / "collection", tiny_photos(24))


def source(folder: Path, kind: str) -> dict[str, Any]:
    """Settings of a tiny dual encoder."""
    if kind == "open_clip":
        pytest.importorskip("open_clip")
        return {"name": str(write_open_clip(folder))}
    return {"library": "transformers", "name": str(write_transformers(folder, kind))}


def recipe(collection: Collection, dual: dict[str, Any], **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "dual",
        "seed": 3,
        "data": {"collection": str(collection.folder), "flip": 0.5, "crop": 0.9},
        "model": {"dim": WIDTH, "context_head": True, "dual_encoder": dual},
        "objective": {
            "base": {"kind": "contrastive", "temperature": 0.05},
            "lca": {"concepts": 8},
            "cra": {},
        },
        "optimizer": {"learning_rate": 0.003, "backbone_learning_rate": 0.001},
        "training": {
            "epochs": 2,
            "batch_size": 8,
            "log_every": 1,
            "checkpoint_every": 1,
            "tensorboard": False,
            "accelerator": "cpu",
        },
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section] = {**values[section], name: value}
    return Recipe.model_validate(values)


@pytest.mark.parametrize("kind", ["open_clip", "clip", "siglip", "lora", "lora open_clip"])
def test_fine_tuned_resumed_and_loaded_exactly(collection: Collection, tmp_path: Path, kind: str) -> None:
    if kind.startswith("lora"):
        pytest.importorskip("peft")
        dual = source(tmp_path / "clip", "clip" if kind == "lora" else "open_clip") | {
            "lora": {"rank": 2, "dropout": 0.1}
        }
    else:
        dual = source(tmp_path / "clip", kind)
    chosen = recipe(collection, dual, optimizer__layer_decay=0.8)
    before = assemble_model(chosen, Sources.open(collection.folder))
    train(chosen, tmp_path / "whole", progress=False)
    with interrupted(3):
        train(chosen, tmp_path / "parts", progress=False)
    torch.manual_seed(999)  # whatever the process drew meanwhile
    train(chosen, tmp_path / "parts", resume="auto", progress=False)
    one, two = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "parts"))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name

    loaded = RetrievalModel.from_pretrained(tmp_path / "whole")
    moved = [
        name
        for name, value in loaded.state_dict().items()
        if not torch.equal(value, before.state_dict()[name])
    ]
    if kind.startswith("lora"):
        assert moved
        assert all("lora_" in name or "context_head" in name for name in moved)
        assert any("image_tower" in name and "lora_" in name for name in moved)
        assert any("text_tower" in name and "lora_" in name for name in moved)
    else:
        assert {"image_tower", "text_tower"} <= {name.split(".")[0] for name in moved if ".dual." in name}
    result = evaluate_model(loaded, Sources.open(collection.folder), "test")
    assert 0 <= result.metrics["rsum"] <= 600


def test_it_learns(collection: Collection, tmp_path: Path) -> None:
    dual = source(tmp_path / "clip", "clip")
    chosen = recipe(collection, dual, training__epochs=12, data__flip=0.0, data__crop=1.0)
    train(chosen, tmp_path / "run", progress=False)
    from crossalign.training.metrics import read_metrics

    losses = [
        event["contrastive"]
        for event in read_metrics(tmp_path / "run" / "metrics.jsonl")
        if event["kind"] == "train"
    ]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


@pytest.mark.parametrize("kind", ["open_clip", "clip"])
def test_lora_merges_and_trains_only_its_own(collection: Collection, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("peft")
    dual = source(tmp_path / "clip", kind) | {"lora": {"rank": 2}}
    chosen = recipe(collection, dual, model__context_head=False, objective__cra=None)
    model = assemble_model(chosen, Sources.open(collection.folder))
    plain = assemble_model(
        recipe(collection, {**dual, "lora": None}, model__context_head=False, objective__cra=None),
        Sources.open(collection.folder),
    )
    texts = ["a red square", "blue ground"]
    # The changes begin at zero.
    torch.testing.assert_close(model.encode_texts(texts), plain.encode_texts(texts), atol=1e-6, rtol=0)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    rates = {
        group["lr"]
        for group in build_optimizer(
            model, Objective(chosen.objective, model.config), chosen.optimizer
        ).param_groups
    }
    assert rates == {0.003}
    train(chosen, tmp_path / "run", progress=False)
    learnt = RetrievalModel.from_pretrained(tmp_path / "run")
    embeddings = learnt.encode_texts(texts)
    assert not torch.allclose(embeddings, plain.encode_texts(texts), atol=1e-4)
    learnt.merge_lora()
    torch.testing.assert_close(learnt.encode_texts(texts), embeddings, atol=1e-5, rtol=0)
    assert set(learnt.state_dict()) == set(plain.state_dict())
    learnt.save_pretrained(tmp_path / "merged")
    merged = RetrievalModel.from_pretrained(tmp_path / "merged")
    assert torch.equal(merged.encode_texts(texts), learnt.encode_texts(texts))
    with pytest.raises(CrossAlignError, match="no low-rank adaptation"):
        merged.merge_lora()


def test_unknown_targets_are_refused(tmp_path: Path, collection: Collection) -> None:
    pytest.importorskip("peft")
    dual = source(tmp_path / "clip", "clip") | {"lora": {"targets": ["nowhere"]}}
    with pytest.raises(CrossAlignError, match="no layer is called nowhere; there are fc1, fc2"):
        assemble_model(recipe(collection, dual), Sources.open(collection.folder))


def gradients(model: RetrievalModel, sources: Sources) -> dict[str, torch.Tensor]:
    """Of the sum of all scores and units of a few photos and texts, in training mode."""
    split, images, texts = sources.split(model, "train")
    model.train()
    image = model.image_tower(images(np.arange(3)))
    text = model.text_tower(texts(np.arange(4)))
    torch.manual_seed(0)
    weights = torch.randn(3, 4)
    loss = (
        (model.scores(image, text) * weights).sum()
        + image.context.square().mean()
        + text.context.square().mean()
    )
    loss.backward()
    assert split.texts
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("kind", ["open_clip", "clip", "siglip"])
def test_checkpointing_gives_the_same_gradients(collection: Collection, tmp_path: Path, kind: str) -> None:
    chosen = recipe(collection, source(tmp_path / "clip", kind))
    sources = Sources.open(collection.folder)
    plain, saving = assemble_model(chosen, sources), assemble_model(chosen, sources)
    checkpoint_gradients(saving)
    passes = {"plain": 0, "saving": 0}
    for name, model in (("plain", plain), ("saving", saving)):
        for half in (model.image_tower.dual, model.text_tower.dual):
            block = next(
                m
                for place, m in half.named_modules()
                if place.endswith((".resblocks.0.ln_1", ".layers.0.layer_norm1"))
            )

            def count(*_: Any, name: str = name) -> None:
                passes[name] += 1

            block.register_forward_pre_hook(count)
    first, second = gradients(plain, sources), gradients(saving, sources)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(second[name], first[name], atol=1e-6, rtol=1e-5)
    assert passes == {"plain": 2, "saving": 4}


@pytest.mark.parametrize("kind", ["open_clip", "clip"])
def test_layer_decay_and_frozen_blocks(collection: Collection, tmp_path: Path, kind: str) -> None:
    dual = source(tmp_path / "clip", kind)
    chosen = recipe(
        collection,
        dual,
        optimizer__layer_decay=0.5,
        optimizer__frozen_text_blocks=0,
        optimizer__frozen_image_blocks=1,
    )
    model = assemble_model(chosen, Sources.open(collection.folder))
    freeze_blocks(model, chosen.optimizer)
    optimizer = build_optimizer(model, Objective(chosen.objective, model.config), chosen.optimizer)
    names = {id(value): name for name, value in model.named_parameters()}
    rates = {
        names[id(value)]: group["lr"]
        for group in optimizer.param_groups
        for value in group["params"]
        if id(value) in names
    }
    blocks = "resblocks" if kind == "open_clip" else "layers"

    def of(tower: str, part: str) -> set[float]:
        return {
            rate for name, rate in rates.items() if name.startswith(f"{tower}_tower.dual.") and part in name
        }

    assert of("text", f"{blocks}.1.") == {0.0005}
    assert of("text", f"{blocks}.0.") == {0.00025}
    assert of("text", "projection") == {0.001}
    assert of("image", f"{blocks}.1.") == {0.0005}
    # Frozen: the embeddings of both, and the first block of images.
    assert not of("image", f"{blocks}.0.")
    assert not of("image", "conv1") | of("image", "patch_embedding") | of("text", "token_embedding")
    assert {rate for name, rate in rates.items() if "context_head" in name} == {0.003}
    with pytest.raises(CrossAlignError, match="the image network has 2 blocks; lower it, or set all"):
        freeze_blocks(model, chosen.optimizer.model_copy(update={"frozen_image_blocks": 3}))
    freeze_blocks(model, chosen.optimizer.model_copy(update={"frozen_image_blocks": "all"}))
    assert not any(value.requires_grad for value in model.image_tower.dual.parameters())


def test_settings_for_networks_that_are_not_fine_tuned_are_refused(collection: Collection) -> None:
    for setting in ("layer_decay=0.5", "frozen_image_blocks=1", "frozen_text_blocks=all"):
        name, value = setting.split("=")
        values = {
            "name": "x",
            "data": {"collection": str(collection.folder)},
            "optimizer": {name: value if value == "all" else float(value) if "." in value else int(value)},
        }
        with pytest.raises(ValueError, match=f"optimizer.{name} is for networks that are fine-tuned"):
            Recipe.model_validate(values)
    with pytest.raises(ValueError, match=r"training.gradient_checkpointing is for networks"):
        Recipe.model_validate(
            {
                "name": "x",
                "data": {"collection": "c"},
                "training": {"gradient_checkpointing": True},
            }
        )


def test_towers_beside_a_dual_encoder_are_refused() -> None:
    dual = {"name": "ViT-B-32"}
    base = {"name": "x", "data": {"collection": "c"}}
    with pytest.raises(ValueError, match="dual_encoder is both towers; leave image and text out"):
        Recipe.model_validate({**base, "model": {"dual_encoder": dual, "text": {"word_dropout": 0.1}}})
    with pytest.raises(ValueError, match="cross_encoder is a part of dual_encoder"):
        Recipe.model_validate({**base, "model": {"scorer": {"kind": "cross_encoder"}}})
    with pytest.raises(ValueError, match="every weight stays as it is; leave them out"):
        Recipe.model_validate(
            {**base, "model": {"dual_encoder": {**dual, "lora": {}}}, "optimizer": {"frozen_image_blocks": 1}}
        )
