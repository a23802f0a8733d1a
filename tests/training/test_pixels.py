"""Training from photos: end to end with a small network, resumed as uninterrupted, deterministic augmentation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from crossalign.data.batch import Batch
from crossalign.data.collection import Collection
from crossalign.data.loading import PairSampler, TrainingLoader
from crossalign.errors import CrossAlignError
from crossalign.model import RetrievalModel
from crossalign.recipe import Recipe
from crossalign.sources import Sources
from crossalign.training.assemble import assemble_model
from crossalign.training.checkpoint import load_checkpoint
from crossalign.training.metrics import read_metrics
from crossalign.training.trainer import train
from interrupted_training import interrupted
from photo_collection import BACKBONE, write_collection, write_weights


@pytest.fixture
def collection(tmp_path: Path, tiny_photos: Callable[..., Any]) -> Collection:
    return write_collection(tmp_path / "collection", tiny_photos(24))


def recipe(collection: Collection, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "pixels",
        "seed": 3,
        "data": {"collection": str(collection.folder), "flip": 0.5, "crop": 0.7},
        "model": {
            "dim": 12,
            "context_head": True,
            "image": {"backbones": [BACKBONE], "train_backbone": True, "region_dropout": 0.2},
            "text": {"encoder": {"kind": "gru", "word_dim": 8, "min_count": 1}},
        },
        "objective": {"base": {"kind": "contrastive"}, "lca": {"concepts": 8}, "cra": {}},
        "optimizer": {"learning_rate": 0.01},
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


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "checkpoints" / "last.ckpt")["weights"]


def assert_same(one: Path, two: Path) -> None:
    ours, theirs = weights(one), weights(two)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert read_metrics(one / "metrics.jsonl") == read_metrics(two / "metrics.jsonl")


def test_photos_and_their_network_train_end_to_end(collection: Collection, tmp_path: Path) -> None:
    settings = recipe(collection, training__epochs=12, data__crop=0.9)
    result = train(settings, tmp_path / "run", progress=False)
    events = [e for e in read_metrics(tmp_path / "run" / "metrics.jsonl") if e["kind"] == "train"]
    assert result.steps == len(events) == 12 * 4
    early, late = ([e["contrastive"] for e in part] for part in (events[:4], events[-4:]))
    assert np.mean(late) < 0.7 * np.mean(early)
    # The network's own weights moved, and the model folder alone holds them.
    model = RetrievalModel.from_pretrained(tmp_path / "run")
    torch.manual_seed(3)
    fresh = assemble_model(settings, Sources.open(collection.folder))
    moved = [
        not torch.equal(value, model.image_tower.backbones.state_dict()[name])
        for name, value in fresh.image_tower.backbones.state_dict().items()
    ]
    assert sum(moved) > len(moved) / 2
    photos = [collection.image_path(image.id) for image in collection.images]
    assert model.encode_images(photos).shape == (24, 36)


def test_a_frozen_network_is_trained_on_and_stays(collection: Collection, tmp_path: Path) -> None:
    path = write_weights(tmp_path / "weights.safetensors")
    frozen = {"backbones": [{**BACKBONE, "weights": str(path)}], "region_dropout": 0.2}
    settings = recipe(collection, model__image=frozen)
    train(settings, tmp_path / "run", progress=False)
    before = load_file(path)
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    own = {name.split("network.")[1]: value for name, value in saved.items() if "backbones.0." in name}
    assert own
    assert all(torch.equal(before[name], value) for name, value in own.items())
    # Frozen weights are not written again with every checkpoint.
    kept = weights(tmp_path / "run")
    assert not any("backbones" in name and name.endswith(".weight") for name in kept)
    path.unlink()
    photo = collection.image_path(collection.images[0].id)
    assert RetrievalModel.from_pretrained(tmp_path / "run").encode_images([photo]).isfinite().all()


@pytest.mark.parametrize(("workers", "stop"), [(0, 2), (0, 5), (2, 6)])
def test_resumed_equals_uninterrupted(
    collection: Collection, tmp_path: Path, workers: int, stop: int
) -> None:
    settings = recipe(collection, data__workers=workers)
    whole = train(settings, tmp_path / "whole", progress=False)
    assert whole.steps == 8
    with interrupted(2 * stop, "check_finite"):
        train(settings, tmp_path / "parts", progress=False)
    torch.manual_seed(999)
    train(settings, tmp_path / "parts", resume="auto", progress=False)
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_the_number_of_workers_changes_nothing_and_may_change_on_resume(
    collection: Collection, tmp_path: Path
) -> None:
    train(recipe(collection), tmp_path / "none", progress=False)
    train(recipe(collection, data__workers=2), tmp_path / "two", progress=False)
    assert_same(tmp_path / "none", tmp_path / "two")
    with interrupted(6, "check_finite"):
        train(recipe(collection), tmp_path / "changed", progress=False)
    train(recipe(collection, data__workers=1), tmp_path / "changed", resume="auto", progress=False)
    assert_same(tmp_path / "none", tmp_path / "changed")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_photo_that_cannot_be_read_stops_with_one_line(
    collection: Collection, tmp_path: Path, workers: int
) -> None:
    broken = collection.image_path(collection.split("train").image_ids[2])
    broken.write_bytes(b"no photo")
    with pytest.raises(CrossAlignError) as caught:
        train(recipe(collection, data__workers=workers), tmp_path / "run", progress=False)
    assert str(caught.value).startswith(f"{broken}: not a readable photo")
    assert "\n" not in str(caught.value)


# ---- augmentation


def batches(
    collection: Collection, epoch: int, workers: int = 0, seed: int = 0, **data: float
) -> list[Batch]:
    settings = recipe(collection)
    sources = Sources.open(collection.folder)
    split, images, texts = sources.split(assemble_model(settings, sources), "train", **data)
    sampler = PairSampler(split, 8, seed)
    sampler.seek(epoch)
    return list(TrainingLoader(split, images, texts, sampler, workers))


def test_augmentation_is_a_function_of_seed_and_epoch(collection: Collection) -> None:
    first = batches(collection, 1, flip=0.5, crop=0.6)
    for again in (
        batches(collection, 1, flip=0.5, crop=0.6),
        batches(collection, 1, workers=2, flip=0.5, crop=0.6),
    ):
        for one, two in zip(first, again, strict=True):
            assert torch.equal(one.image.pixels, two.image.pixels)
            assert one.caption_ids == two.caption_ids
    other = {
        "epoch": batches(collection, 2, flip=0.5, crop=0.6),
        "seed": batches(collection, 1, seed=1, flip=0.5, crop=0.6),
    }
    plain = {
        int(image): pixels
        for batch in batches(collection, 1)
        for image, pixels in zip(batch.image_ids, batch.image.pixels[batch.image_rows], strict=True)
    }
    seen: dict[str, dict[int, torch.Tensor]] = {}
    for name, some in {"first": first, **other}.items():
        seen[name] = {
            int(image): pixels
            for batch in some
            for image, pixels in zip(batch.image_ids, batch.image.pixels[batch.image_rows], strict=True)
        }
    both = [image for image in seen["first"] if all(image in found for found in seen.values())]
    assert len(both) > 8
    # Photos of twenty pixels have few different crops: two may coincide by chance.
    for one, two in combinations([plain, *seen.values()], 2):
        same = sum(torch.equal(one[image], two[image]) for image in both)
        assert same <= len(both) // 4


def test_a_flip_mirrors_and_a_crop_keeps_its_share(tmp_path: Path, collection: Collection) -> None:
    """Photos whose red is their column and whose green is their row tell where a crop came from."""
    ramp = np.zeros((100, 200, 3), np.uint8)
    ramp[..., 0] = np.arange(200)[None]
    ramp[..., 1] = np.arange(100)[:, None]
    for image in collection.images:
        path = collection.image_path(image.id)
        Image.fromarray(ramp).save(path, format="PNG")
    plain = batches(collection, 0)[0].image.pixels
    flipped = batches(collection, 0, flip=1.0)[0].image.pixels
    torch.testing.assert_close(flipped, plain.flip(-1), atol=0.02, rtol=0)
    assert not torch.allclose(flipped, plain, atol=0.5)
    half = torch.cat([batch.image.pixels for batch in batches(collection, 0, flip=0.5)])
    mirrored = (half[:, 0, :, 0] > half[:, 0, :, -1]).all(dim=1)
    assert 0 < mirrored.sum() < len(mirrored)

    cropped = torch.cat([batch.image.pixels for batch in batches(collection, 0, crop=0.5)])
    values = (cropped * 0.25 + 0.5) * 255
    left, right = values[:, 0].mean(dim=1)[:, 0], values[:, 0].mean(dim=1)[:, -1]
    top, bottom = values[:, 1].mean(dim=2)[:, 0], values[:, 1].mean(dim=2)[:, -1]
    across, down = (right - left) / 200, (bottom - top) / 100
    assert ((across > 0.44) & (across <= 1.0)).all()
    # Both sides keep the same share: the photo's shape stays. Thirty-two pixels a side are a coarse ruler.
    torch.testing.assert_close(across, down, atol=0.05, rtol=0)
    assert across.max() - across.min() > 0.2
    assert left.max() - left.min() > 20
    assert top.max() - top.min() > 10


def test_validation_is_never_augmented(collection: Collection) -> None:
    settings = recipe(collection)
    sources = Sources.open(collection.folder)
    model = assemble_model(settings, sources)
    _, images, _ = sources.split(model, "train", flip=1.0, crop=0.5)
    plain = images(np.arange(4)).pixels
    again = images(np.arange(4)).pixels
    assert torch.equal(plain, again)
    paths = [collection.image_path(name) for name in collection.split("train").image_ids[:4]]
    assert torch.equal(plain, model.image_inputs(paths).pixels)
