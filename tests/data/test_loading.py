"""Batches: a function of seed, epoch and step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from crossalign.data.collection import CaptionRecord, Collection, ImageRecord, Split
from crossalign.data.features import FeatureWriter
from crossalign.data.loading import ImageSource, PairSampler
from crossalign.errors import CrossAlignError

COUNTS = [5, 1, 3, 5, 2, 4]


def split() -> Split:
    image_of_text = np.repeat(np.arange(len(COUNTS)), COUNTS)
    return Split(
        name="train",
        image_ids=tuple(f"i{n}" for n in range(len(COUNTS))),
        caption_ids=tuple(f"c{n}" for n in range(len(image_of_text))),
        texts=tuple("x" for _ in image_of_text),
        image_of_text=image_of_text,
    )


def test_an_epoch_of_captions_shows_each_once_with_its_image() -> None:
    sampler = PairSampler(split(), 4, seed=1)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 5
    captions = [caption for batch in batches for _, caption, _ in batch]
    assert sorted(captions) == list(range(20))
    assert all(split().image_of_text[caption] == image for batch in batches for image, caption, _ in batch)


def test_an_epoch_of_images_shows_each_image_once() -> None:
    sampler = PairSampler(split(), 3, seed=1, images_first=True)
    images = [image for batch in sampler for image, _, _ in batch]
    assert sorted(images) == list(range(6))
    two = PairSampler(split(), 11, seed=1, images_first=True, captions_per_image=2)
    pairs = [(image, caption) for batch in two for image, caption, _ in batch]
    assert len(pairs) == 11 == len(set(pairs))
    assert np.bincount([image for image, _ in pairs]).tolist() == [2, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("images_first", [False, True])
def test_seek_gives_the_rest_of_the_same_epoch(images_first: bool) -> None:
    sampler = PairSampler(split(), 2, seed=3, images_first=images_first)
    sampler.seek(4)
    whole = list(sampler)
    sampler.seek(4, 2)
    assert list(sampler) == whole[2:]
    sampler.seek(5)
    assert list(sampler) != whole
    other = PairSampler(split(), 2, seed=4, images_first=images_first)
    other.seek(4)
    assert list(other) != whole


def test_a_batch_larger_than_the_split_is_refused() -> None:
    with pytest.raises(CrossAlignError, match="do not fill one batch of 64"):
        PairSampler(split(), 64, seed=0)


@pytest.mark.parametrize("known", [True, False])
def test_stored_features_come_with_the_shapes_of_their_photos(tmp_path: Path, known: bool) -> None:
    sizes = [(40, 20), (30, 30), (10, 20) if known else (0, 0)]
    collection = Collection.write(
        tmp_path / "collection",
        name="shapes",
        image_root=tmp_path,
        images=[ImageRecord(f"i{n}", "", *size) for n, size in enumerate(sizes)],
        captions=[CaptionRecord(f"c{n}", f"i{n}", "words", "train") for n in range(3)],
        provenance={},
    )
    with FeatureWriter(
        tmp_path / "store", ids=["i2", "i1", "i0"], dim=2, units=1, dtype="float32",
        manifest={"kind": "image"}, boxes=False,
    ) as writer:  # fmt: skip
        writer.append([np.zeros((1, 2), np.float32)] * 3)
        store = writer.finish()
    source = ImageSource(collection, collection.split("train"), [store])
    inputs = source(np.array([2, 0]))
    if known:
        assert inputs.aspect is not None
        assert torch.equal(inputs.aspect, torch.tensor([0.5, 2.0]))
    else:
        assert inputs.aspect is None
