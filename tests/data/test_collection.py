"""A collection comes back as it was written, is whole or absent, and says what is wrong with it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crossalign.data import CaptionRecord, Collection, ImageRecord
from crossalign.errors import CrossAlignError

IMAGES = [
    ImageRecord("391895", "val/b.jpg", 640, 480),
    ImageRecord("2", "a.png", 3, 4, "bird"),
    ImageRecord("jpg#2", "ü.jpg", 5, 6),
    ImageRecord("alone", "d.jpg", 7, 8),
]
CAPTIONS = [
    CaptionRecord("10", "2", "second image, first sentence", "train"),
    CaptionRecord("11", "391895", "a \u2028 separator and \u00e9 stay", "train"),
    CaptionRecord("12", "jpg#2", "a test sentence", "test"),
    CaptionRecord("13", "2", "second image, second sentence", "train"),
    CaptionRecord("14", "391895", "first image again", "train"),
    CaptionRecord("15", "391895", "and again", "train"),
]


def write(folder: Path, **changes: object) -> Collection:
    settings = {"name": "four", "image_root": folder.parent, "images": IMAGES, "captions": CAPTIONS}
    return Collection.write(folder, **{**settings, "provenance": {"from": "hand"}, **changes})  # type: ignore[arg-type]


def test_everything_comes_back(tmp_path: Path) -> None:
    write(tmp_path / "c")
    collection = Collection.load(tmp_path / "c")
    assert collection.name == "four"
    assert collection.provenance == {"from": "hand"}
    assert collection.images == tuple(IMAGES)
    assert collection.splits == ("train", "test")
    assert collection.image_root == tmp_path
    assert collection.image("2").label == "bird"


def test_split_groups_captions_by_image_in_source_order(tmp_path: Path) -> None:
    train = write(tmp_path / "c").split("train")
    assert train.image_ids == ("391895", "2")  # "alone" has no caption, "jpg#2" none in train
    assert train.caption_ids == ("11", "14", "15", "10", "13")
    assert train.texts[0] == "a \u2028 separator and \u00e9 stay"
    assert train.image_of_text.tolist() == [0, 0, 0, 1, 1]
    assert train.image_of_text.dtype == np.int64


def test_split_equals_a_plain_loop(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    images = [ImageRecord(str(i), f"{i}.jpg", 1, 1) for i in random.permutation(40)]
    splits = random.choice(["train", "val", "odd"], 200)
    captions = [
        CaptionRecord(f"c{k}", str(random.integers(40)), f"text {k}", str(split))
        for k, split in enumerate(splits)
    ]
    collection = write(tmp_path / "c", images=images, captions=captions)
    assert collection.splits == ("train", "val", "odd")
    for name in collection.splits:
        image_ids, ids, texts, image_of_text = [], [], [], []
        for image in images:
            own = [c for c in captions if c.image_id == image.id and c.split == name]
            if own:
                image_of_text += [len(image_ids)] * len(own)
                image_ids.append(image.id)
                ids += [c.id for c in own]
                texts += [c.text for c in own]
        split = collection.split(name)
        assert (split.image_ids, split.caption_ids, split.texts) == (
            tuple(image_ids),
            tuple(ids),
            tuple(texts),
        )
        assert split.image_of_text.tolist() == image_of_text


def test_unknown_split_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match="no split 'val'; it has train, test"):
        write(tmp_path / "c").split("val")


def test_summary_counts(tmp_path: Path) -> None:
    summary = write(tmp_path / "c").summary()
    assert (summary["images"], summary["captions"]) == (4, 6)
    assert summary["splits"] == {
        "train": {"images": 2, "captions": 5, "captions_per_image": {"min": 2, "mean": 2.5, "max": 3}},
        "test": {"images": 1, "captions": 1, "captions_per_image": {"min": 1, "mean": 1.0, "max": 1}},
    }
    json.dumps(summary)


def test_image_path_and_a_root_that_moved(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    collection = write(tmp_path / "c", image_root=tmp_path / "photos")
    assert collection.image_path("391895") == tmp_path / "photos" / "val" / "b.jpg"
    (tmp_path / "photos").rename(tmp_path / "moved")
    collection = Collection.load(tmp_path / "c")  # opening needs no photos
    assert collection.split("test").texts == ("a test sentence",)
    with pytest.raises(CrossAlignError, match="photos does not exist"):
        collection.image_path("2")
    moved = Collection.load(tmp_path / "c", image_root=tmp_path / "moved")
    assert moved.image_path("2") == tmp_path / "moved" / "a.png"
    with pytest.raises(CrossAlignError, match="no image with id 'x'"):
        moved.image_path("x")


def test_absolute_files_need_no_root(tmp_path: Path) -> None:
    collection = write(
        tmp_path / "c",
        image_root=tmp_path / "nowhere",
        images=[ImageRecord("a", "/photos/a.jpg", 1, 1)],
        captions=[CaptionRecord("1", "a", "text", "train")],
    )
    assert collection.image_path("a") == Path("/photos/a.jpg")


def test_photos_inside_the_collection_move_with_it(tmp_path: Path) -> None:
    write(tmp_path / "c", image_root=tmp_path / "c" / "photos")
    (tmp_path / "c" / "photos").mkdir()
    (tmp_path / "c").rename(tmp_path / "d")
    assert Collection.load(tmp_path / "d").image_path("2") == tmp_path / "d" / "photos" / "a.png"


def test_features_only(tmp_path: Path) -> None:
    collection = write(
        tmp_path / "c",
        image_root=None,
        images=[ImageRecord("a", "", 0, 0)],
        captions=[CaptionRecord("1", "a", "text", "train")],
    )
    with pytest.raises(CrossAlignError, match="features only"):
        collection.image_path("a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [*IMAGES, ImageRecord("2", "other.jpg", 1, 1)]}, "image id '2' occurs more than once"),
        (
            {"captions": [*CAPTIONS, CaptionRecord("10", "2", "x", "test")]},
            "caption id '10' occurs more than once",
        ),
        (
            {"captions": [CaptionRecord("1", "who", "x", "test")]},
            "caption '1' belongs to the unknown image 'who'",
        ),
        ({"captions": [CaptionRecord("1", "2", "  ", "test")]}, "caption '1' has no text"),
        ({"captions": [CaptionRecord("1", "2", "x", "")]}, "caption '1' has no text or no split"),
    ],
)
def test_bad_records_are_refused_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(CrossAlignError, match=message):
        write(tmp_path / "c", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["images.parquet", "captions.parquet"])
def test_a_damaged_table_is_found(tmp_path: Path, file: str) -> None:
    write(tmp_path / "c")
    path = tmp_path / "c" / file
    good = path.read_bytes()
    for bad in (good[:-1], bytes([good[0] ^ 1]) + good[1:], good[: len(good) // 2], b""):
        path.write_bytes(bad)
        with pytest.raises(CrossAlignError, match=rf"{file}: damaged"):
            Collection.load(tmp_path / "c")
    path.unlink()
    with pytest.raises(CrossAlignError, match=rf"{file}: no such file"):
        Collection.load(tmp_path / "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: {**d, "format_version": 2}, "not format version 1"),
        (lambda d: [d], "not format version 1"),
        (lambda d: {k: v for k, v in d.items() if k != "checksums"}, "no checksums"),
    ],
)
def test_a_wrong_description_is_found(tmp_path: Path, change: object, message: str) -> None:
    write(tmp_path / "c")
    path = tmp_path / "c" / "collection.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))  # type: ignore[operator]
    with pytest.raises(CrossAlignError, match=message):
        Collection.load(tmp_path / "c")
    path.write_text("{")
    with pytest.raises(CrossAlignError, match=r"not valid JSON \(.*\); import the collection again"):
        Collection.load(tmp_path / "c")


def test_not_a_collection(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(CrossAlignError, match="not a collection"):
            Collection.load(folder)


def test_overwriting_only_on_request_and_only_a_collection(tmp_path: Path) -> None:
    write(tmp_path / "c")
    with pytest.raises(CrossAlignError, match="already exists"):
        write(tmp_path / "c", name="second")
    assert Collection.load(tmp_path / "c").name == "four"
    assert write(tmp_path / "c", name="second", overwrite=True).name == "second"
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(CrossAlignError, match=r"holds more than a collection \(holiday.jpg\)"):
        write(photos, overwrite=True)
    assert (photos / "holiday.jpg").read_bytes() == b"precious"


KILLED = """
import os, signal, sys
from pathlib import Path
from crossalign.data import CaptionRecord, Collection, ImageRecord, collection, tables
calls = 0
def dying(function):
    def call(*arguments, **keywords):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return call
tables.write_table = dying(tables.write_table)
collection.file_digest = dying(collection.file_digest)
collection.write_json = dying(collection.write_json)
Path.rename = dying(Path.rename)
Collection.write(
    sys.argv[1], name="k", image_root=None, images=[ImageRecord("a", "", 0, 0)],
    captions=[CaptionRecord("1", "a", "text", "train")], provenance={}, overwrite=True,
)
"""


def test_killed_at_any_step_leaves_nothing_or_everything(tmp_path: Path) -> None:
    outcomes = []
    for step in range(1, 8):
        folder = tmp_path / str(step) / "c"
        run = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(step)], check=False)
        outcomes.append(run.returncode)
        if run.returncode == 0:
            assert Collection.load(folder).split("train").texts == ("text",)
        else:
            assert run.returncode == -signal.SIGKILL
            assert not folder.exists()
            write(folder)  # what the killed run left behind is not in the way
            shutil.rmtree(folder)
    assert outcomes == [-signal.SIGKILL] * 6 + [0]


def test_extracted_features_are_never_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "c")
    store = tmp_path / "c" / "features" / "mobilenet"
    store.mkdir(parents=True)
    (store / "features.bin").write_bytes(b"hours of work")
    with pytest.raises(CrossAlignError, match="holds extracted features"):
        write(tmp_path / "c", overwrite=True)
    assert (store / "features.bin").read_bytes() == b"hours of work"


def test_an_imported_store_is_replaced_and_an_extracted_one_is_not(tmp_path: Path) -> None:
    def store(place: Path, regions: dict[str, str]) -> Path:
        place.mkdir(parents=True, exist_ok=True)
        (place / "manifest.json").write_text(json.dumps({"regions": regions}))
        return place / "manifest.json"

    write(tmp_path / "c")
    store(tmp_path / "c" / "features", {"kind": "precomputed"})
    write(tmp_path / "c", overwrite=True)
    assert not (tmp_path / "c" / "features").exists()
    # Extracted into the folder of an imported store, or in its place.
    store(tmp_path / "c" / "features", {"kind": "precomputed"})
    nested = store(tmp_path / "c" / "features" / "minilm", {"kind": "grid"})
    with pytest.raises(CrossAlignError, match="holds extracted features"):
        write(tmp_path / "c", overwrite=True)
    assert nested.is_file()
    shutil.rmtree(tmp_path / "c" / "features")
    own = store(tmp_path / "c" / "features", {"kind": "grid"})
    with pytest.raises(CrossAlignError, match="holds extracted features"):
        write(tmp_path / "c", overwrite=True)
    assert own.is_file()
