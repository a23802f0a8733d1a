"""Pairs unit by unit: each image once, real regions only, in the words' own places."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crossalign.data.collection import Collection
from crossalign.data.extract import extract_images
from crossalign.data.regions import BoxFile
from crossalign.encoders.backbone import ImageBackbone
from crossalign.encoders.words import WordTokenizer
from crossalign.evaluation.encoded_pairs import encoded_pairs
from crossalign.model import ModelConfig, RetrievalModel
from crossalign.sources import Sources
from photo_collection import backbone, paint, write_collection, write_detections, write_weights


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return write_collection(tmp_path / "collection", paint(tmp_path / "photos", 18))


def model_of(
    collection: Collection, weights: Path, more: dict[str, object] | None = None, **image: object
) -> RetrievalModel:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "dim": 8,
            "image": {"backbones": [backbone(weights).model_dump()], **image},
            "text": {"encoder": {"kind": "gru", "word_dim": 6}},
            **(more or {}),
        }
    )
    texts = [text for name in collection.splits for text in collection.split(name).texts]
    return RetrievalModel(config, tokenizer=WordTokenizer.build(texts, min_count=1)).eval()


def test_every_pair_is_what_the_towers_say_of_it_alone(collection: Collection, tmp_path: Path) -> None:
    model = model_of(collection, write_weights(tmp_path / "weights.safetensors"))
    part, images, texts = Sources.open(collection.folder).split(model, "train")
    asked: list[int] = []

    def counting(positions: np.ndarray, *rest: object) -> object:
        asked.extend(positions.tolist())
        return images(positions)

    pairs = list(encoded_pairs(model, part, counting, texts, images_at_once=5))  # type: ignore[arg-type]
    assert sorted(asked) == list(range(len(part.image_ids)))
    assert [pair.caption_id for pair in pairs] == list(part.caption_ids)
    for pair in pairs[::3]:
        with torch.inference_mode():
            seen = model.image_tower(model.image_inputs([collection.image_path(pair.image_id)]))
            read = model.text_tower(model.text_inputs([pair.text]))
        torch.testing.assert_close(pair.regions["locals"], seen.locals[0])
        torch.testing.assert_close(
            pair.regions["context"], torch.nn.functional.normalize(seen.context[0], dim=1)
        )
        torch.testing.assert_close(pair.words["locals"], read.locals[0])
        torch.testing.assert_close(
            pair.words["context"], torch.nn.functional.normalize(read.context[0], dim=1)
        )
        assert pair.similarity == pytest.approx(
            model.similarity(seen.embedding, read.embedding).item(), abs=1e-5
        )
        assert len(pair.boxes) == len(pair.regions["locals"]) == 5
        assert len(pair.offsets) == len(pair.words["locals"])
    assert not model.training


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"image": {"encoder": {"kind": "camera", "heads": 2, "views": 3, "channels": 4, "positions": False}}},
        *({"scorer": {"kind": kind}} for kind in ("scan", "sgr", "saf", "sgraf")),
    ],
    ids=["embedding", "views", "scan", "sgr", "saf", "sgraf"],
)
def test_a_pair_is_scored_as_among_all_others(
    collection: Collection, tmp_path: Path, more: dict[str, dict[str, object]]
) -> None:
    scorer = dict(more.get("scorer", {}))
    if scorer and scorer["kind"] != "scan":
        scorer |= {"similarity_dim": 4, "regions": 5}
    changes = {"scorer": scorer} if scorer else {}
    model = model_of(collection, write_weights(tmp_path / "w.safetensors"), changes, **more.get("image", {}))
    part, images, texts = Sources.open(collection.folder).split(model, "train")
    every = np.arange(len(part.image_ids))
    with torch.inference_mode():
        seen, read = model.image_tower(images(every)), model.text_tower(texts(np.arange(len(part.texts))))
        scores = model.scores(seen, read)
    model.train()
    for caption, pair in enumerate(encoded_pairs(model, part, images, texts, images_at_once=4)):
        expected = scores[part.image_of_text[caption], caption].item()
        assert pair.similarity == pytest.approx(expected, abs=1e-5)
    assert model.training


def test_chosen_captions_come_image_by_image(collection: Collection, tmp_path: Path) -> None:
    model = model_of(collection, write_weights(tmp_path / "weights.safetensors"))
    part, images, texts = Sources.open(collection.folder).split(model, "train")
    chosen = np.array([7, 2, 4])
    model.train()
    pairs = list(encoded_pairs(model, part, images, texts, chosen, images_at_once=1))
    assert [pair.caption_id for pair in pairs] == [part.caption_ids[caption] for caption in (2, 4, 7)]
    assert [pair.image_id for pair in pairs] == [
        part.image_ids[part.image_of_text[caption]] for caption in (2, 4, 7)
    ]
    assert model.training


def test_padded_regions_are_left_out(collection: Collection, tmp_path: Path) -> None:
    """Photos have no, one or two boxes beside the whole picture."""
    weights = write_weights(tmp_path / "weights.safetensors")
    boxes = BoxFile(write_detections(tmp_path / "boxes.jsonl", collection))
    extract_images(
        collection,
        collection.folder / "features" / "boxes",
        ImageBackbone(backbone(weights, grid=None)),
        boxes=boxes,
        dtype="float32",
        progress=False,
    )
    model = model_of(collection, weights, regions="boxes")
    sources = Sources.open(collection.folder, ["boxes"])
    for name in collection.splits:
        for pair in encoded_pairs(model, *sources.split(model, name)):
            index = [image.id for image in collection.images].index(pair.image_id)
            assert len(pair.boxes) == len(pair.regions["locals"]) == 1 + index % 3
            assert pair.boxes[0].tolist() == [0, 0, 1, 1]
            assert ((pair.boxes[:, 2:] - pair.boxes[:, :2]) > 0).all()
