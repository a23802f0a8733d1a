"""From a recipe to its model: what the stores know is filled in, and contradictions are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from crossalign.data.collection import Collection
from crossalign.data.extract import extract_images
from crossalign.data.features import FeatureWriter
from crossalign.data.regions import BoxFile
from crossalign.encoders.backbone import ImageBackbone
from crossalign.encoders.detector import Detector, DetectorConfig
from crossalign.encoders.hf import TextBackboneConfig
from crossalign.errors import CrossAlignError
from crossalign.model import ModelConfig, RetrievalModel
from crossalign.recipe import Recipe
from crossalign.sources import Sources
from crossalign.training.assemble import assemble_model, complete_config
from photo_collection import BACKBONE, INPUT, backbone, write_collection, write_detections, write_weights

TEXT_BACKBONE = TextBackboneConfig(name="somewhere/encoder", max_length=20, weights_sha256="ab" * 32)


@pytest.fixture
def collection(tmp_path: Path, tiny_photos: Callable[..., Any]) -> Collection:
    return write_collection(tmp_path / "collection", tiny_photos(6))


@pytest.fixture
def extract(tmp_path: Path, collection: Collection) -> Callable[..., str]:
    """A factory: extracts features by the small network of that name into a store of that name."""

    def run(store: str, network: str = "test_byobnet", boxes: Any = None, **changes: Any) -> str:
        weights = tmp_path / f"{network}.safetensors"
        if not weights.exists():
            write_weights(weights, network)
        settings = backbone(weights, name=network, **changes)
        extract_images(
            collection,
            collection.folder / "features" / store,
            ImageBackbone(settings),
            boxes=boxes,
            progress=False,
        )
        return store

    return run


@pytest.fixture
def invent(collection: Collection) -> Callable[..., str]:
    """A factory: writes constant features with this manifest into a store of that name."""

    def run(store: str, dim: int = 4, ids: tuple[str, ...] | None = None, **manifest: Any) -> str:
        names = ids or tuple(image.id for image in collection.images)
        with FeatureWriter(
            collection.folder / "features" / store,
            ids=names,
            dim=dim,
            units=2,
            dtype="float32",
            manifest={"kind": "image", **manifest},
            boxes=False,
        ) as writer:
            writer.append([np.ones((2, dim)) for _ in names])
            writer.finish()
        return store

    return run


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    """An ONNX file of the YOLOX layout that finds nothing: its output is one constant."""
    size = 32
    anchors = sum((size // stride) ** 2 for stride in (8, 16, 32))
    values = np.full((1, anchors, 6), -9.0, np.float32)
    values[..., 4:] = 0.0
    node = helper.make_node(
        "Constant",
        [],
        ["out"],
        value=helper.make_tensor("v", TensorProto.FLOAT, values.shape, values.ravel()),
    )
    graph = helper.make_graph(
        [node],
        "nothing",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, (1, 3, size, size))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, values.shape)],
    )
    path = tmp_path / "detector.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return Detector(DetectorConfig(model=str(path), min_score=0.3))


def complete(
    collection: Collection, stores: tuple[str, ...] = (), text_store: str | None = None, **model: Any
) -> ModelConfig:
    return complete_config(
        ModelConfig.model_validate(model), Sources.open(collection.folder, stores, text_store)
    )


def refused(*arguments: Any, **settings: Any) -> str:
    with pytest.raises(CrossAlignError) as caught:
        complete(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- what the stores know


def test_grid_stores_name_their_backbones_in_order(
    collection: Collection, extract: Callable[..., str], tmp_path: Path
) -> None:
    stores = (extract("one"), extract("two", "test_resnet", layer=2))
    config = complete(collection, stores, dim=7, image={"encoder": {"pooling": "max"}})
    assert [(b.name, b.layer, b.grid) for b in config.image.backbones] == [
        ("test_byobnet", 1, 2),
        ("test_resnet", 2, 2),
    ]
    assert config.image.backbones[0].weights == str(tmp_path / "test_byobnet.safetensors")
    assert config.image.backbones[0].weights_sha256 is not None
    assert (config.dim, config.image.encoder.pooling) == (7, "max")
    assert (config.image.regions, config.image.detector, config.image.feature_dim) == ("grid", None, None)
    reverse = complete(collection, stores[::-1])
    assert [b.name for b in reverse.image.backbones] == ["test_resnet", "test_byobnet"]


def test_boxes_of_a_file_need_no_detector_and_may_be_given_one(
    collection: Collection, extract: Callable[..., str], tmp_path: Path, detector: Detector
) -> None:
    store = extract("boxes", boxes=BoxFile(write_detections(tmp_path / "boxes.jsonl", collection)))
    config = complete(collection, (store,))
    assert (config.image.regions, config.image.detector) == ("boxes", None)
    config = complete(collection, (store,), image={"detector": {"model": detector.config.model}})
    assert config.image.detector is not None
    assert config.image.detector.model == detector.config.model


def test_boxes_of_a_detector_name_it_with_its_settings(
    collection: Collection, extract: Callable[..., str], detector: Detector, tmp_path: Path
) -> None:
    config = complete(collection, (extract("boxes", boxes=detector),))
    assert config.image.regions == "boxes"
    assert config.image.detector == detector.config
    assert config.image.detector.min_score == 0.3
    assert config.image.detector.sha256 is not None
    # So the model folder holds it, and raw photos need nothing else.
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "data": {"collection": str(collection.folder), "image_features": ["boxes"]},
            "model": {"dim": 4, "text": {"encoder": {"kind": "gru", "word_dim": 3, "min_count": 1}}},
        }
    )
    model = assemble_model(recipe, Sources.open(collection.folder, ("boxes",)))
    model.save_pretrained(tmp_path / "model")
    Path(detector.config.model).unlink()
    (tmp_path / "test_byobnet.safetensors").unlink()
    loaded = RetrievalModel.from_pretrained(tmp_path / "model")
    photos = [collection.image_path(image.id) for image in collection.images]
    expected = model.encode_images(photos, boxes=[np.empty((0, 4), np.float32)] * len(photos))
    torch.testing.assert_close(loaded.encode_images(photos), expected)


def test_imported_features_give_their_width(collection: Collection, invent: Callable[..., str]) -> None:
    stores = (invent("one", 4), invent("two", 3))
    config = complete(collection, stores)
    assert config.image.feature_dim == 7
    assert config.image.backbones == ()
    assert complete(collection, stores, image={"feature_dim": 7}).image.feature_dim == 7


def test_pixels_keep_the_recipes_backbones(collection: Collection) -> None:
    config = complete(collection, image={"backbones": [BACKBONE], "train_backbone": True})
    assert config.image.backbones[0].name == "test_byobnet"
    assert config.image.train_backbone


def test_a_text_store_names_its_encoder(collection: Collection, invent: Callable[..., str]) -> None:
    image, text = invent("image"), invent("text", kind="text", backbone=TEXT_BACKBONE.model_dump())
    config = complete(collection, (image,), text, text={"encoder": {"kind": "pooled"}})
    assert config.text.encoder.kind == "pooled"
    assert config.text.backbone == TEXT_BACKBONE
    # Named in the recipe as well, without its checksum: no contradiction.
    same = {"name": "somewhere/encoder", "max_length": 20}
    config = complete(collection, (image,), text, text={"encoder": {"kind": "pooled"}, "backbone": same})
    assert config.text.backbone == TEXT_BACKBONE


# ---- contradictions


def test_nothing_to_see_is_refused(collection: Collection) -> None:
    assert "give the recipe data.image_features" in refused(collection)


def test_stores_and_backbones_exclude_each_other(collection: Collection, extract: Callable[..., str]) -> None:
    store = extract("one")
    assert "exclude each other" in refused(collection, (store,), image={"backbones": [BACKBONE]})
    assert "exclude each other" in refused(collection, (store,), image={"train_backbone": True})


def test_a_width_that_is_not_the_stores_is_refused(
    collection: Collection, invent: Callable[..., str], extract: Callable[..., str]
) -> None:
    message = refused(collection, (invent("one", 4),), image={"feature_dim": 5})
    assert "model.image.feature_dim is 5" in message
    assert "4 wide" in message
    assert "feature_dim" in refused(collection, (extract("grid"),), image={"feature_dim": 5})


def test_regions_that_are_not_the_stores_are_refused(
    collection: Collection, extract: Callable[..., str], tmp_path: Path, detector: Detector
) -> None:
    grid = extract("grid")
    assert "model.image.regions: boxes" in refused(collection, (grid,), image={"regions": "boxes"})
    found = {"detector": {"model": detector.config.model}}
    assert "model.image.detector" in refused(collection, (grid,), image=found)
    boxes = extract("boxes", boxes=BoxFile(write_detections(tmp_path / "boxes.jsonl", collection)))
    others = extract("others", boxes=detector)
    for stores in ((grid, boxes), (boxes, grid), (boxes, others), (grid, extract("finer", grid=3))):
        assert "different regions" in refused(collection, stores)


def test_pixels_have_cells_not_boxes(collection: Collection, detector: Detector) -> None:
    image = {"backbones": [BACKBONE], "regions": "boxes"}
    assert "crossalign extract" in refused(collection, image=image)
    image = {"backbones": [BACKBONE], "detector": {"model": detector.config.model}}
    assert "model.image.detector" in refused(collection, image=image)


def test_pixels_have_no_width_of_features(collection: Collection) -> None:
    message = refused(collection, image={"backbones": [BACKBONE], "feature_dim": 5})
    assert "model.image.feature_dim is the width of imported features" in message


def test_a_detector_that_is_not_there_is_told_before_training(
    collection: Collection, extract: Callable[..., str], tmp_path: Path
) -> None:
    boxes = extract("boxes", boxes=BoxFile(write_detections(tmp_path / "boxes.jsonl", collection)))
    message = refused(collection, (boxes,), image={"detector": {"model": str(tmp_path / "none.onnx")}})
    assert "none.onnx: no such detector file" in message


def test_backbones_of_different_preprocessing_are_refused(
    collection: Collection, extract: Callable[..., str]
) -> None:
    stores = (extract("one"), extract("two", "test_resnet", layer=2, input={**INPUT, "size": 64}))
    recipe = Recipe.model_validate({"name": "x", "data": {"collection": "x"}})
    with pytest.raises(CrossAlignError, match="pre-processing differs"):
        assemble_model(recipe, Sources.open(collection.folder, stores))


def test_a_text_store_needs_a_frozen_encoder_of_its_own_kind(
    collection: Collection, invent: Callable[..., str]
) -> None:
    image, text = invent("image"), invent("text", kind="text", backbone=TEXT_BACKBONE.model_dump())
    for settings in ({"encoder": {"kind": "gru"}}, {"encoder": {"kind": "pooled"}, "train_backbone": True}):
        assert "states of a frozen encoder" in refused(collection, (image,), text, text=settings)
    for change in ({"name": "other/encoder"}, {"max_length": 9}, {"layer": 1}, {"weights_sha256": "00" * 32}):
        named = TEXT_BACKBONE.model_copy(update=change).model_dump()
        message = refused(collection, (image,), text, text={"encoder": {"kind": "pooled"}, "backbone": named})
        assert f"({next(iter(change))})" in message
    bare = invent("bare", kind="text")
    message = refused(collection, (image,), bare, text={"encoder": {"kind": "pooled"}})
    assert "does not say which encoder made it" in message


def test_words_of_stored_states_cannot_be_masked(collection: Collection, invent: Callable[..., str]) -> None:
    image, text = invent("image"), invent("text", kind="text", backbone=TEXT_BACKBONE.model_dump())
    settings = {"encoder": {"kind": "pooled"}, "word_masking": 0.1}
    assert "word_masking" in refused(collection, (image,), text, text=settings)


@pytest.mark.parametrize("setting", ["flip", "crop"])
def test_stored_features_cannot_be_flipped_or_cropped(
    collection: Collection, invent: Callable[..., str], setting: str
) -> None:
    store = invent("image")
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "data": {"collection": str(collection.folder), "image_features": [store], setting: 0.5},
            "model": {"text": {"encoder": {"kind": "gru", "min_count": 1}}},
        }
    )
    with pytest.raises(CrossAlignError, match=f"data.{setting} changes photos"):
        assemble_model(recipe, Sources.open(collection.folder, (store,)))


def test_a_store_of_the_other_modality_is_refused(collection: Collection, invent: Callable[..., str]) -> None:
    image, text = invent("image"), invent("text", kind="text", backbone=TEXT_BACKBONE.model_dump())
    with pytest.raises(CrossAlignError, match="text: holds text features; image_features needs image"):
        Sources.open(collection.folder, (text,))
    with pytest.raises(CrossAlignError, match="image: holds image features; text_features needs text"):
        Sources.open(collection.folder, (image,), image)


# ---- the model itself


def test_weights_come_from_the_seed_and_words_from_the_training_captions(
    collection: Collection, invent: Callable[..., str]
) -> None:
    store = invent("image")

    def build(seed: int, **encoder: Any) -> RetrievalModel:
        recipe = Recipe.model_validate(
            {
                "name": "x",
                "seed": seed,
                "data": {"collection": str(collection.folder), "image_features": [store]},
                "model": {"dim": 5, "text": {"encoder": {"kind": "gru", "word_dim": 3, **encoder}}},
            }
        )
        torch.manual_seed(777)
        torch.rand(seed + 1)  # whatever the process drew before
        return assemble_model(recipe, Sources.open(collection.folder, (store,)))

    first, again, other = build(1, min_count=1), build(1, min_count=1), build(2, min_count=1)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    vocabulary = set(first.text_tower.tokenizer.tokenizer.get_vocab())
    said = {word for text in collection.split("train").texts for word in text.lower().rstrip(".").split()}
    assert {word.rstrip(",") for word in said} <= vocabulary
    # Photo 5 alone, in the test split, is told as the fifth view.
    assert "5" not in vocabulary
    assert set(build(1, min_count=6).text_tower.tokenizer.tokenizer.get_vocab()) < vocabulary
    assert build(1, max_length=2).text_inputs(["a red square"]).tokens.shape == (1, 2)
    within = build(1, min_count=1, splitting="treebank", borders=True)
    start, end = (within.text_tower.tokenizer.tokenizer.token_to_id(word) for word in ("<start>", "<end>"))
    tokens = within.text_inputs(["a red-haired square"]).tokens[0].tolist()
    assert (tokens[0], tokens[-1], len(tokens)) == (start, end, 5)
