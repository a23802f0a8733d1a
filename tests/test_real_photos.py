"""Real photos and real weights, the whole way by the command line: import, extract, train, evaluate, index, search."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossalign.cli.main import main
from crossalign.data.collection import Collection
from crossalign.data.features import FeatureStore
from crossalign.encode import encode_split
from crossalign.model import RetrievalModel
from crossalign.sources import Sources

COUNTS = {"train": 60, "val": 20, "test": 20}
SMALL = ["training.tensorboard=false", "training.accelerator=cpu", "model.dim=64", "training.batch_size=32"]


def call(*arguments: object) -> str:
    """Run the command line; its standard output."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main([str(argument) for argument in arguments])
    assert not ended.value.code, err.getvalue()
    return out.getvalue()


def document(*arguments: object) -> dict[str, Any]:
    return json.loads(call(*arguments, "--json"))


def settings(*values: str) -> list[str]:
    return [part for value in values for part in ("--set", value)]


@dataclass(frozen=True)
class Slice:
    """A few photos of Flickr8k as a collection, and how its features are extracted."""

    photos: Path
    collection: Path
    network: list[object]


@pytest.fixture(scope="module")
def flickr(tmp_path_factory: pytest.TempPathFactory, shared_data: Path, shared_weights: Path) -> Slice:
    folder = tmp_path_factory.mktemp("flickr")
    source = shared_data / "flickr8k"
    content = json.loads((source / "dataset_flickr8k.json").read_text())
    left = dict(COUNTS)
    chosen = []
    for image in content["images"]:
        if left.get(image["split"], 0) > 0:
            left[image["split"]] -= 1
            chosen.append(image)
    (folder / "slice.json").write_text(json.dumps({**content, "images": chosen}))
    summary = document(
        "import", "karpathy", folder / "slice.json", "--images", source / "images", "--out", folder / "flickr"
    )
    assert {name: split["images"] for name, split in summary["splits"].items()} == COUNTS
    assert summary["captions"] == 500
    network = ["--model", "mobilenetv1_100", "--weights", shared_weights / "mobilenetv1_100.safetensors"]
    network += ["--model-args", "pad_type=same", "--size", 128, "--mean", 0.5, "--std", 0.5]
    return Slice(source / "images", folder / "flickr", [*network, "--workers", 0, "--device", "cpu"])


@pytest.fixture(scope="module")
def run(flickr: Slice) -> Path:
    """A run of the package's own recipe on grid features, in small."""
    store = flickr.collection / "features" / "mobilenetv1"
    made = document("extract", flickr.collection, store, *flickr.network)
    assert (made["count"], made["units"], made["dim"], made["dtype"]) == (100, 17, 1024, "float16")
    changes = [f"data.collection={flickr.collection}", "training.epochs=6", "objective.lca.concepts=64"]
    folder = flickr.collection.parent / "run"
    recipe = "flickr8k-vse-infinity-selfalign-paper"
    outcome = document("train", recipe, "--out", folder, *settings(*SMALL, *changes))
    assert (outcome["epochs"], outcome["steps"]) == (6, 6 * (300 // 32))
    return folder


def test_training_on_real_features_learns(run: Path) -> None:
    """On its own training photos; on twenty others, little is certain after a few steps."""
    result = document("evaluate", run, "--split", "train", "--device", "cpu")
    # Chance: R@1/5/10 among 60 photos is 2/8/17 percent.
    assert result["metrics"]["rsum"] > 300
    assert result["counts"] == {"images": 60, "captions": 300}
    test = document("evaluate", run, "--device", "cpu")["metrics"]
    assert 0 < test["t2i_r1"] <= test["t2i_r5"] <= test["t2i_r10"] <= 100


def test_raw_photos_are_embedded_as_the_stored_features(run: Path, flickr: Slice) -> None:
    model = RetrievalModel.from_pretrained(run)
    sources = Sources.open(flickr.collection, ("mobilenetv1",))
    split, images, texts = sources.split(model, "test")
    stored, told = encode_split(model, images, texts)
    raw = model.encode_images([sources.collection.image_path(name) for name in split.image_ids])
    # The store holds half precision.
    torch.testing.assert_close(raw, stored, atol=5e-3, rtol=0)
    assert torch.equal(torch.cdist(raw, stored).argmin(dim=1), torch.arange(20))
    torch.testing.assert_close(model.encode_texts(split.texts), told, atol=1e-5, rtol=1e-4)
    by_store, by_photo = (
        document("evaluate", run, *options, "--device", "cpu")["metrics"] for options in ([], ["--raw"])
    )
    assert by_photo["rsum"] == pytest.approx(by_store["rsum"], abs=10)


def test_an_index_of_photos_is_searched_by_the_trained_model(
    run: Path, flickr: Slice, tmp_path: Path
) -> None:
    collection = Collection.load(flickr.collection)
    split = collection.split("test")
    (tmp_path / "photos").mkdir()
    for name in split.image_ids:
        shutil.copyfile(collection.image_path(name), tmp_path / "photos" / collection.image_path(name).name)
    made = document("index", run, tmp_path / "photos", "--out", tmp_path / "index", "--device", "cpu")
    assert (made["photos"], made["failed"]) == (20, 0)
    model = RetrievalModel.from_pretrained(run)
    raw = model.encode_images([collection.image_path(name) for name in split.image_ids])
    for caption in (0, 99):
        query = split.texts[caption]
        hits = document("search", tmp_path / "index", query, "-k", 20, "--device", "cpu")["hits"]
        scores = model.similarity(raw, model.encode_texts([query]))[:, 0]
        names = [collection.image_path(name).name for name in split.image_ids]
        expected = dict(zip(names, scores.tolist(), strict=True))
        assert {hit["file"]: hit["score"] for hit in hits} == pytest.approx(expected, abs=1e-3)
        assert hits[0]["file"] == max(expected, key=lambda name: expected[name])


@pytest.mark.parametrize("cells", [False, True], ids=["boxes", "both"])
def test_detections_become_regions_and_a_detector_serves_raw_photos(
    flickr: Slice, shared_data: Path, shared_weights: Path, tmp_path: Path, cells: bool
) -> None:
    pytest.importorskip("onnxruntime")
    content = json.loads((flickr.collection.parent / "slice.json").read_text())
    chosen = [
        image
        for split, count in {"train": 16, "val": 4, "test": 4}.items()
        for image in [image for image in content["images"] if image["split"] == split][:count]
    ]
    (tmp_path / "slice.json").write_text(json.dumps({**content, "images": chosen}))
    place = tmp_path / "few"
    call("import", "karpathy", tmp_path / "slice.json", "--images", flickr.photos, "--out", place)
    detections = shared_data / "flickr8k" / "detections_yolox_nano.jsonl"
    options = [*flickr.network, "--dtype", "float32", *(["--cells"] if cells else [])]
    first = 17 if cells else 1
    call("extract", place, place / "features" / "file", *options, "--boxes", detections, "--max-boxes", 5)
    detector = shared_weights / "yolox_nano.onnx"
    call("extract", place, place / "features" / "found", *options, "--detector", detector, "--max-boxes", 5)

    wanted = {image["filename"] for image in chosen}
    rows = [json.loads(line) for line in detections.read_text().splitlines()]
    counts = {row["filename"]: min(len(row["boxes"]), 5) for row in rows if row["filename"] in wanted}
    store = FeatureStore.open(place / "features" / "file")
    ids = [image.id for image in Collection.load(place).images]
    files = [image.file for image in Collection.load(place).images]
    found = store.unit_counts(store.index(ids))
    assert found.tolist() == [first + counts[file] for file in files]
    assert len(set(found.tolist())) > 2
    boxes = store.batch(store.index(ids)).boxes
    assert boxes is not None
    assert np.array_equal(boxes[:, 0], np.tile([0, 0, 1, 1], (24, 1)))

    changes = [f"data.collection={place}", "data.image_features=[found]", "training.epochs=1"]
    call("train", "flickr8k-vse-infinity-paper", "--out", tmp_path / "run", *settings(*SMALL, *changes))
    assert (tmp_path / "run" / "model" / "detector.onnx").is_file()
    model = RetrievalModel.from_pretrained(tmp_path / "run")
    sources = Sources.open(place, ("found",))
    split, images, texts = sources.split(model, "train")
    stored, _ = encode_split(model, images, texts)
    raw = model.encode_images([sources.collection.image_path(name) for name in split.image_ids])
    torch.testing.assert_close(raw, stored, atol=1e-5, rtol=1e-5)
    told = document(
        "explain", tmp_path / "run", sources.collection.image_path(split.image_ids[0]), split.texts[0]
    )
    assert len(told["regions"]) == len(store.batch(store.index(split.image_ids[:1])).features[0])
    by_store, by_photo = (
        document("evaluate", tmp_path / "run", *how, "--split", "train", "--device", "cpu")["metrics"]
        for how in ([], ["--raw"])
    )
    assert by_photo == by_store
