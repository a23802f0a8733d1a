"""Evaluating a model: the whole way at once, and stores that are not the model's are refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny_bert import write_bert

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crossalign.data.collection import Collection
from crossalign.data.extract import extract_images, extract_texts
from crossalign.data.features import FeatureStore, FeatureWriter
from crossalign.data.regions import BoxFile
from crossalign.encode import encode_split
from crossalign.encoders.backbone import ImageBackbone
from crossalign.encoders.hf import TextBackbone, TextBackboneConfig
from crossalign.encoders.words import WordTokenizer
from crossalign.errors import CrossAlignError
from crossalign.evaluation import recall
from crossalign.evaluation.of_model import evaluate_model
from crossalign.model import ModelConfig, RetrievalModel
from crossalign.sources import Sources
from photo_collection import backbone, paint, write_collection, write_detections, write_weights


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return write_collection(tmp_path / "collection", paint(tmp_path / "photos", 12))


@pytest.fixture
def store(tmp_path: Path, collection: Collection) -> FeatureStore:
    return extract(tmp_path, collection, "store")


def extract(folder: Path, collection: Collection, name: str, seed: int = 0, **changes: Any) -> FeatureStore:
    settings = backbone(write_weights(folder / f"{name}.safetensors", seed=seed), **changes)
    network = ImageBackbone(settings)
    return extract_images(collection, folder / name, network, dtype="float32", progress=False).store


@pytest.fixture
def bert(tmp_path: Path, collection: Collection) -> Path:
    texts = [text for name in collection.splits for text in collection.split(name).texts]
    return write_bert(tmp_path / "bert", texts, layers=2)


def build(
    collection: Collection, image: dict[str, Any], text: dict[str, Any] | None = None
) -> RetrievalModel:
    torch.manual_seed(0)
    values = {
        "dim": 6,
        "image": image,
        "text": text or {"encoder": {"kind": "gru", "word_dim": 5, "min_count": 1}},
    }
    tokenizer = WordTokenizer.build(collection.split("train").texts, min_count=1) if text is None else None
    return RetrievalModel(ModelConfig.model_validate(values), tokenizer=tokenizer).eval()


def refused(
    model: RetrievalModel, collection: Collection, images: list[FeatureStore], text: Any = None
) -> str:
    sources = Sources.open(collection.folder, [str(store.folder) for store in images], text)
    with pytest.raises(CrossAlignError) as caught:
        evaluate_model(model, sources, "test")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_result_is_the_recall_of_the_embeddings(collection: Collection, store: FeatureStore) -> None:
    model = build(collection, {"backbones": [store.manifest["backbone"]]})
    sources = Sources.open(collection.folder, [str(store.folder)])
    split, images, texts = sources.split(model, "train")
    result = evaluate_model(model, sources, "train", command="test")
    assert result.metrics == recall(*encode_split(model, images, texts), split.image_of_text)
    assert (result.collection, result.split, result.command) == ("tiny", "train", "test")
    assert result.model == model.fingerprint


def test_a_model_on_frozen_photos_takes_the_store_of_its_network(
    tmp_path: Path, collection: Collection, store: FeatureStore
) -> None:
    """The checksum of its weights is in the model's settings, though no store told it."""
    settings = backbone(tmp_path / "store.safetensors")
    assert settings.weights_sha256 is None
    model = build(collection, {"backbones": [settings]})
    model.save_pretrained(tmp_path / "model")
    loaded = RetrievalModel.from_pretrained(tmp_path / "model")
    assert loaded.fingerprint == model.fingerprint
    sources = Sources.open(collection.folder, [str(store.folder)])
    raw = evaluate_model(loaded, Sources.open(collection.folder), "train")
    assert evaluate_model(loaded, sources, "train").metrics == raw.metrics


def test_stores_of_other_networks_weights_or_settings_are_refused(
    tmp_path: Path, collection: Collection, store: FeatureStore
) -> None:
    model = build(collection, {"backbones": [store.manifest["backbone"]]})
    for name, changes in (("weights", {"seed": 1}), ("layer", {"layer": 2}), ("grid", {"grid": 1})):
        other = extract(tmp_path, collection, name, **changes)
        assert "made with the same settings" in refused(model, collection, [other])
    assert "given are test_byobnet, test_byobnet" in refused(model, collection, [store, store])


def test_boxes_are_refused_for_a_model_on_cells_and_cells_for_one_on_boxes(
    tmp_path: Path, collection: Collection, store: FeatureStore
) -> None:
    boxes = extract_images(
        collection,
        tmp_path / "boxes",
        ImageBackbone(backbone(tmp_path / "store.safetensors")),
        boxes=BoxFile(write_detections(tmp_path / "boxes.jsonl", collection)),
        dtype="float32",
        progress=False,
    ).store
    settings = {"backbones": [store.manifest["backbone"]]}
    assert boxes.manifest["backbone"] == store.manifest["backbone"]
    on_cells = build(collection, settings)
    on_boxes = build(collection, settings | {"regions": "boxes"})
    assert "takes grid cells, the stores hold boxes; name" in refused(on_cells, collection, [boxes])
    assert "takes boxes, the stores hold grid cells; name" in refused(on_boxes, collection, [store])
    for model, own in ((on_cells, store), (on_boxes, boxes)):
        assert evaluate_model(model, Sources.open(collection.folder, [str(own.folder)]), "test").metrics


def test_a_model_that_fine_tuned_its_network_takes_no_store(
    collection: Collection, store: FeatureStore
) -> None:
    image = {"backbones": [store.manifest["backbone"]], "train_backbone": True}
    model = build(collection, image)
    assert "fine-tuned its own backbones" in refused(model, collection, [store])


def test_imported_features_of_another_width_are_refused(tmp_path: Path, collection: Collection) -> None:
    model = build(collection, {"feature_dim": 5})
    ids = [image.id for image in collection.images]
    with FeatureWriter(
        tmp_path / "four", ids=ids, dim=4, units=1, dtype="float32", manifest={"kind": "image"}, boxes=False
    ) as writer:
        writer.append([np.ones((1, 4)) for _ in ids])
        four = writer.finish()
    assert "4 wide, but the model takes 5" in refused(model, collection, [four])


def test_token_states_of_another_encoder_layer_or_length_are_refused(
    tmp_path: Path, collection: Collection, store: FeatureStore, bert: Path
) -> None:
    image = {"backbones": [store.manifest["backbone"]]}
    stores = {}
    for name, changes in (("own", {}), ("layer", {"layer": 1}), ("length", {"max_length": 5})):
        encoder = TextBackbone(TextBackboneConfig.model_validate({"name": str(bert), **changes}))
        stores[name] = extract_texts(
            collection, tmp_path / name, encoder, dtype="float32", progress=False
        ).store
    text = {"encoder": {"kind": "pooled"}, "backbone": {"name": str(bert)}}
    build(collection, image, text).save_pretrained(tmp_path / "model")
    model = RetrievalModel.from_pretrained(tmp_path / "model")
    places = [str(store.folder)]
    stored = evaluate_model(
        model, Sources.open(collection.folder, places, str(stores["own"].folder)), "train"
    )
    assert stored.metrics == evaluate_model(model, Sources.open(collection.folder, places), "train").metrics
    for name in ("layer", "length"):
        assert "text features: made by another encoder" in refused(
            model, collection, [store], str(stores[name].folder)
        )
    words = build(collection, image)
    assert "text features: made by another" in refused(words, collection, [store], str(stores["own"].folder))
