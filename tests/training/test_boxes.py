"""Training on boxes: a varying number of regions an image, down to none, and raw photos afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossalign.data.collection import Collection
from crossalign.data.extract import extract_images
from crossalign.data.features import FeatureStore, FeatureWriter
from crossalign.data.regions import BoxFile
from crossalign.encode import encode_split
from crossalign.encoders.backbone import ImageBackbone
from crossalign.errors import CrossAlignError
from crossalign.evaluation.of_model import evaluate_model
from crossalign.model import RetrievalModel
from crossalign.recipe import Recipe
from crossalign.sources import Sources
from crossalign.training.checkpoint import load_checkpoint
from crossalign.training.metrics import read_metrics
from crossalign.training.trainer import train
from interrupted_training import interrupted
from photo_collection import backbone, boxes_of, write_collection, write_detections, write_weights


@pytest.fixture
def collection(tmp_path: Path, tiny_photos: Callable[..., Any]) -> Collection:
    return write_collection(tmp_path / "collection", tiny_photos(24))


@pytest.fixture
def store(tmp_path: Path, collection: Collection) -> FeatureStore:
    """Whole photos and boxes: every third photo has no box at all."""
    return extract_images(
        collection,
        collection.folder / "features" / "boxes",
        ImageBackbone(backbone(write_weights(tmp_path / "weights.safetensors"))),
        boxes=BoxFile(write_detections(tmp_path / "boxes.jsonl", collection)),
        dtype="float32",
        progress=False,
    ).store


@pytest.fixture
def both(tmp_path: Path, collection: Collection, store: FeatureStore) -> FeatureStore:
    """Grid cells, the whole photo first, and the same boxes behind them."""
    return extract_images(
        collection,
        collection.folder / "features" / "both",
        ImageBackbone(backbone(tmp_path / "weights.safetensors")),
        boxes=BoxFile(tmp_path / "boxes.jsonl"),
        cells=True,
        dtype="float32",
        progress=False,
    ).store


def given_boxes(collection: Collection) -> dict[str, np.ndarray]:
    """The boxes of every photo, relative to it."""
    return {
        image.id: np.array(boxes_of(index, image.width, image.height), np.float32).reshape(-1, 4)
        / np.array([image.width, image.height] * 2, np.float32)
        for index, image in enumerate(collection.images)
    }


def recipe(collection: Collection, store: str, **training: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "boxes",
            "data": {"collection": str(collection.folder), "image_features": [store]},
            "model": {
                "dim": 12,
                "context_head": True,
                "image": {"region_dropout": 0.3, "encoder": {"dropout": 0.1}},
                "text": {"word_dropout": 0.1, "encoder": {"kind": "gru", "word_dim": 8, "min_count": 1}},
            },
            "objective": {
                "base": {"kind": "contrastive"},
                "lca": {"concepts": 8, "symmetric": True},
                "cra": {},
            },
            "optimizer": {"learning_rate": 0.01},
            "training": {
                "epochs": 2,
                "batch_size": 8,
                "log_every": 1,
                "tensorboard": False,
                "accelerator": "cpu",
                **training,
            },
        }
    )


def test_a_run_on_boxes_encodes_raw_photos_with_those_boxes(
    collection: Collection, store: FeatureStore, tmp_path: Path
) -> None:
    assert sorted(set(store.unit_counts(range(len(store))).tolist())) == [1, 2, 3]
    train(recipe(collection, "boxes", epochs=8), tmp_path / "run", progress=False)
    events = [e for e in read_metrics(tmp_path / "run" / "metrics.jsonl") if e["kind"] == "train"]
    assert np.mean([e["contrastive"] for e in events[-4:]]) < np.mean([e["contrastive"] for e in events[:4]])

    model = RetrievalModel.from_pretrained(tmp_path / "run")
    assert (model.config.image.regions, model.config.image.detector) == ("boxes", None)
    sources = Sources.open(collection.folder, ("boxes",))
    split, images, texts = sources.split(model, "train")
    stored, told = encode_split(model, images, texts, batch_size=5)
    given = given_boxes(collection)
    raw = model.encode_images(
        [collection.image_path(name) for name in split.image_ids],
        boxes=[given[name] for name in split.image_ids],
        batch_size=3,
    )
    torch.testing.assert_close(raw, stored, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.encode_texts(split.texts), told, atol=1e-5, rtol=1e-4)
    # Each region has its box, in the store as in the photo.
    inputs = images(np.arange(6))
    assert model.image_tower.region_boxes(inputs).shape[:2] == model.image_tower(inputs).mask.shape


def test_evaluation_of_raw_photos_asks_for_a_detector(
    collection: Collection, store: FeatureStore, tmp_path: Path
) -> None:
    train(recipe(collection, "boxes"), tmp_path / "run", progress=False)
    model = RetrievalModel.from_pretrained(tmp_path / "run")
    result = evaluate_model(model, Sources.open(collection.folder, ("boxes",)), "test")
    assert 0 <= result.metrics["rsum"] <= 600
    with pytest.raises(CrossAlignError, match="trained on boxes of a file and has no detector"):
        evaluate_model(model, Sources.open(collection.folder), "test")


@pytest.mark.parametrize("kind", ["pooled", "camera"])
def test_a_run_on_cells_and_boxes_encodes_raw_photos_with_both(
    collection: Collection, both: FeatureStore, tmp_path: Path, kind: str
) -> None:
    assert sorted(set(both.unit_counts(range(len(both))).tolist())) == [5, 6, 7]
    settings = recipe(collection, "both").model_dump()
    if kind == "camera":
        settings["model"]["image"]["encoder"] = {"kind": "camera", "heads": 4}
    train(Recipe.model_validate(settings), tmp_path / "run", progress=False)
    model = RetrievalModel.from_pretrained(tmp_path / "run")
    assert (model.config.image.regions, model.config.image.detector) == ("both", None)
    split, images, texts = Sources.open(collection.folder, ("both",)).split(model, "train")
    stored, _ = encode_split(model, images, texts, batch_size=5)
    paths = [collection.image_path(name) for name in split.image_ids]
    given = [given_boxes(collection)[name] for name in split.image_ids]
    torch.testing.assert_close(
        model.encode_images(paths, boxes=given, batch_size=3), stored, atol=1e-5, rtol=1e-5
    )
    # Each region has its place, the same in the store as in the photo.
    seen, photos = images(np.arange(6)), model.image_inputs(paths[:6], given[:6])
    placed, mask = (model.image_tower.region_boxes(photos), model.image_tower.units(photos)[1])
    assert torch.equal(mask, seen.mask)
    torch.testing.assert_close(placed * mask.unsqueeze(2), model.image_tower.region_boxes(seen))
    for asked in ("boxes", None):
        sources = Sources.open(collection.folder, () if asked is None else (asked,))
        refusal = "has no detector" if asked is None else "takes grid cells and boxes, the stores hold boxes"
        with pytest.raises(CrossAlignError, match=refusal):
            evaluate_model(model, sources, "test")


def test_regions_that_contradict_the_store_are_refused(
    collection: Collection, store: FeatureStore, both: FeatureStore, tmp_path: Path
) -> None:
    for stores, asked, told in (
        (["boxes"], "both", "model.image.regions: both, but"),
        (["both"], "boxes", "model.image.regions: boxes, but"),
        (["boxes", "both"], "grid", "different regions"),
    ):
        settings = recipe(collection, "both").model_dump()
        settings["data"]["image_features"] = stores
        settings["model"]["image"]["regions"] = asked
        with pytest.raises(CrossAlignError, match=told):
            train(Recipe.model_validate(settings), tmp_path / "run", progress=False)


def test_resumed_equals_uninterrupted(collection: Collection, store: FeatureStore, tmp_path: Path) -> None:
    settings = recipe(collection, "boxes", checkpoint_every=1)
    train(settings, tmp_path / "whole", progress=False)
    with interrupted(5, "check_finite"):
        train(settings, tmp_path / "parts", progress=False)
    train(settings, tmp_path / "parts", resume="auto", progress=False)
    one, two = (
        load_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt")["weights"] for run in ("whole", "parts")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("empty", ["some", "all"])
def test_imported_images_without_any_region_train_and_are_encoded(
    collection: Collection, tmp_path: Path, empty: str
) -> None:
    """Nothing but the text side can learn from them, and nothing becomes NaN."""
    random = np.random.default_rng(0)
    with FeatureWriter(
        collection.folder / "features" / "ragged",
        ids=[image.id for image in collection.images],
        dim=5,
        units=None,
        dtype="float32",
        manifest={"kind": "image"},
        boxes=False,
    ) as writer:
        counts = [index % 3 if empty == "some" else 0 for index in range(24)]
        writer.append([random.normal(size=(count, 5)) for count in counts])
        writer.finish()
    settings = recipe(collection, "ragged")
    train(settings, tmp_path / "run", progress=False)
    model = RetrievalModel.from_pretrained(tmp_path / "run")
    assert all(value.isfinite().all() for value in model.state_dict().values() if value.is_floating_point())
    sources = Sources.open(collection.folder, ("ragged",))
    _, images, texts = sources.split(model, "train")
    one_by_one, _ = encode_split(model, images, texts, batch_size=1)
    together, _ = encode_split(model, images, texts)
    torch.testing.assert_close(one_by_one, together, atol=1e-5, rtol=1e-4)
    assert together.isfinite().all()
