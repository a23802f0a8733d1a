"""Precomputed features and captions find each other in every layout, and survive a killed import."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crossalign.data import Collection
from crossalign.data.features import FeatureStore
from crossalign.data.importers import SourceProblemsError, import_precomputed, read_precomputed
from crossalign.data.importers.precomputed_arrays import open_arrays, scan_rows
from crossalign.errors import CrossAlignError

REGIONS, DIM = 3, 4


def features(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, REGIONS, DIM)).astype(np.float32)


def write_split(
    folder: Path,
    split: str,
    array: np.ndarray,
    captions: int,
    ids: list[str] | None = None,
    **more: np.ndarray,
) -> None:
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{split}_ims.npy", array)
    lines = [f"{split} sentence {k} ." for k in range(captions)]
    (folder / f"{split}_caps.txt").write_text("".join(line + "\n" for line in lines))
    if ids is not None:
        (folder / f"{split}_ids.txt").write_text("".join(f"{name}\n" for name in ids))
    for name, values in more.items():
        np.save(folder / f"{split}_{name}.npy", values)


def take(
    folder: Path, out: Path, *, skip_bad: bool = False, **settings: object
) -> tuple[Collection, FeatureStore]:
    data = read_precomputed(folder, **settings)  # type: ignore[arg-type]
    collection = import_precomputed(data, out, called="data", skip_bad=skip_bad)
    return collection, FeatureStore.open(out / "features")


def stored(store: FeatureStore, ids: tuple[str, ...]) -> np.ndarray:
    return store.batch(store.index(ids)).features


def test_several_splits_with_rows_once_and_repeated(tmp_path: Path) -> None:
    train, dev, test = features(6, 1), features(2, 2), features(3, 3)
    write_split(tmp_path / "d", "train", train, 30)
    write_split(tmp_path / "d", "dev", np.repeat(dev, 5, axis=0), 10)
    write_split(tmp_path / "d", "test", test, 15)
    collection, store = take(tmp_path / "d", tmp_path / "c")
    assert collection.splits == ("train", "dev", "test")
    for name, array in (("train", train), ("dev", dev), ("test", test)):
        split = collection.split(name)
        assert split.image_ids == tuple(f"{name}:{i}" for i in range(len(array)))
        assert split.texts == tuple(f"{name} sentence {k} ." for k in range(5 * len(array)))
        assert split.image_of_text.tolist() == [i for i in range(len(array)) for _ in range(5)]
        np.testing.assert_array_equal(stored(store, split.image_ids), array)
    assert split.caption_ids[7] == "test:1#2"
    assert store.ids == tuple(image.id for image in collection.images)
    assert store.manifest["boxes"] is False
    assert {image.file for image in collection.images} == {""}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "d"]


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("id_lines", ["images", "captions"])
def test_ids_of_images_or_of_captions(tmp_path: Path, repeated: bool, id_lines: str) -> None:
    array = features(3)
    ids = ["391895", "17", "jpg#2"]
    lines = ids if id_lines == "images" else [name for name in ids for _ in range(5)]
    write_split(tmp_path / "d", "test", np.repeat(array, 5, axis=0) if repeated else array, 15, lines)
    collection, store = take(tmp_path / "d", tmp_path / "c")
    assert collection.split("test").image_ids == tuple(ids) == store.ids
    assert collection.split("test").caption_ids[:2] == ("391895#0", "391895#1")
    np.testing.assert_array_equal(stored(store, store.ids), array)


def test_unequal_counts_from_ids(tmp_path: Path) -> None:
    array, counts = features(3), [2, 5, 1]
    ids = [str(i) for i, count in enumerate(counts) for _ in range(count)]
    write_split(tmp_path / "d", "train", np.repeat(array, counts, axis=0), 8, ids)
    collection, store = take(tmp_path / "d", tmp_path / "c")
    assert np.bincount(collection.split("train").image_of_text).tolist() == counts
    np.testing.assert_array_equal(stored(store, ("0", "1", "2")), array)


def test_one_caption_an_image_and_other_numbers(tmp_path: Path) -> None:
    write_split(tmp_path / "one", "train", features(10), 10)
    collection, _ = take(tmp_path / "one", tmp_path / "c1")
    assert len(collection.images) == len(collection.split("train").texts) == 10
    write_split(tmp_path / "two", "train", np.repeat(features(5), 2, axis=0), 10)
    collection, _ = take(tmp_path / "two", tmp_path / "c2", captions_per_image=2)
    assert len(collection.images) == 5


@pytest.mark.parametrize(
    ("counts", "per_image", "message"),
    [
        # Unequal numbers of captions; their sum is a multiple of five, or not.
        ([3, 5, 4, 2], 5, r"groups of 2 to 5 \(the first other one: rows 0-2\), not of the 5 captions"),
        ([5, 5, 4, 6], 5, r"groups of 4 to 6 \(the first other one: rows 10-13\)"),
        ([3, 5, 4, 6], 5, r"groups of 3 to 6 \(the first other one: rows 0-2\)"),
        ([5, 5, 5, 4], 5, r"groups of 4 to 5 \(the first other one: rows 15-18\)"),
        # Another number than the one asked for.
        ([10, 10], 5, r"groups of 10, not of the 5 captions of an image; give --captions-per-image 10, or"),
        (
            [2] * 10,
            5,
            r"groups of 2, .* give --captions-per-image 2, or name the image of every row in dev_ids.txt",
        ),
        ([5, 5, 5], 2, r"groups of 5, not of the 2 captions"),
        # Two equal images, or one with ten captions.
        ([5, 10, 5, 5], 5, r"groups of 5 to 10 \(the first other one: rows 5-14\)"),
        # One caption an image, and a photo that is there twice.
        ([1, 2, 1], 5, r"groups of 1 to 2 \(.*give --captions-per-image if another number fits \(1: "),
    ],
)
def test_repeated_rows_that_fit_no_groups_are_refused_until_told(
    tmp_path: Path, counts: list[int], per_image: int, message: str
) -> None:
    array, rows = features(len(counts)), sum(counts)
    write_split(tmp_path / "d", "dev", np.repeat(array, counts, axis=0), rows)
    with pytest.raises(CrossAlignError, match=rf"dev_ims\.npy: equal rows stand in {message}"):
        take(tmp_path / "d", tmp_path / "c", captions_per_image=per_image)
    assert not (tmp_path / "c").exists()
    ids = [str(i) for i, count in enumerate(counts) for _ in range(count)]
    write_split(tmp_path / "d", "dev", np.repeat(array, counts, axis=0), rows, ids)
    collection, store = take(tmp_path / "d", tmp_path / "c", captions_per_image=per_image)
    assert np.bincount(collection.split("dev").image_of_text).tolist() == counts
    np.testing.assert_array_equal(stored(store, store.ids), array)


def test_the_number_that_the_refusal_names_is_taken(tmp_path: Path) -> None:
    write_split(tmp_path / "d", "dev", np.repeat(features(2), 10, axis=0), 20)
    collection, _ = take(tmp_path / "d", tmp_path / "c", captions_per_image=10)
    assert np.bincount(collection.split("dev").image_of_text).tolist() == [10, 10]
    write_split(tmp_path / "d", "dev", features(3)[[0, 1, 1, 2]], 4)
    collection, _ = take(tmp_path / "d", tmp_path / "one", captions_per_image=1)
    assert len(collection.images) == 4


def test_equal_neighbours_are_two_images_where_the_ids_count_two(tmp_path: Path) -> None:
    array = features(3)[[0, 1, 1, 2]]
    write_split(tmp_path / "d", "dev", np.repeat(array, 5, axis=0), 20, list("abcd"))
    collection, store = take(tmp_path / "d", tmp_path / "c")
    assert collection.split("dev").image_ids == tuple("abcd")
    np.testing.assert_array_equal(stored(store, store.ids), array)


def test_a_damaged_half_does_not_make_every_row_an_image(tmp_path: Path) -> None:
    array = np.repeat(features(2), 5, axis=0)
    array[7] += 1
    write_split(tmp_path / "d", "dev", array, 10)
    with pytest.raises(CrossAlignError, match=r"groups of 1 to 5 \(the first other one: rows 5-6\)"):
        take(tmp_path / "d", tmp_path / "c")


def test_vectors_half_precision_and_doubles(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(2, DIM))
    write_split(tmp_path / "d", "train", vectors, 10)
    collection, store = take(tmp_path / "d", tmp_path / "c")
    assert store.batch([0, 1]).features.shape == (2, 1, DIM)
    np.testing.assert_array_equal(store.batch([0, 1]).features[:, 0], vectors.astype(np.float32))
    data = read_precomputed(tmp_path / "d")
    import_precomputed(data, tmp_path / "h", called="data", dtype="float16")
    half = FeatureStore.open(tmp_path / "h" / "features")
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half.batch([1]).features[0, 0], vectors[1].astype(np.float16))
    assert collection.summary()["images"] == 2


@pytest.mark.parametrize("repeated", [False, True])
def test_boxes_in_pixels_become_relative(tmp_path: Path, repeated: bool) -> None:
    boxes = np.zeros((2, REGIONS, 4), np.float32)
    boxes[:, 1] = [50, 20, 100, 40]
    sizes = np.asarray([[100, 80], [200, 40]], np.int32)
    rows = np.repeat(features(2), 5, axis=0) if repeated else features(2)
    repeat = 5 if repeated else 1
    write_split(
        tmp_path / "d",
        "dev",
        rows,
        10,
        boxes=np.repeat(boxes, repeat, axis=0),
        img_sizes=np.repeat(sizes, repeat, axis=0),
    )
    collection, store = take(tmp_path / "d", tmp_path / "c")
    found = store.batch([0, 1]).boxes
    assert found is not None
    np.testing.assert_allclose(found[:, 1], [[0.5, 0.25, 1, 0.5], [0.25, 0.5, 0.5, 1]])
    assert [(i.width, i.height) for i in collection.images] == [(100, 80), (200, 40)]
    _, plain = take(tmp_path / "d", tmp_path / "plain", boxes=False)
    assert plain.batch([0]).boxes is None


def test_relative_boxes_of_images_beside_repeated_rows(tmp_path: Path) -> None:
    boxes = np.random.default_rng(0).uniform(size=(2, REGIONS, 4)).astype(np.float32)
    sizes = np.full((2, 2), 10)
    write_split(tmp_path / "d", "dev", np.repeat(features(2), 5, axis=0), 10, boxes=boxes, img_sizes=sizes)
    _, store = take(tmp_path / "d", tmp_path / "c")
    np.testing.assert_array_equal(store.batch([0, 1]).boxes, boxes)


def corners(*largest: float) -> np.ndarray:
    """Boxes of as many images; the last corner of each is at this place."""
    boxes = np.zeros((len(largest), REGIONS, 4), np.float32)
    boxes[:, -1, 2:] = np.asarray(largest)[:, None]
    return boxes


def test_a_corner_just_beyond_the_image_leaves_boxes_relative(tmp_path: Path) -> None:
    for split, largest in (("train", (1.004, 0.5)), ("test", (0.9, 0.0))):
        write_split(
            tmp_path / "d", split, features(2), 10, boxes=corners(*largest), img_sizes=np.full((2, 2), 50)
        )
    collection, store = take(tmp_path / "d", tmp_path / "c")
    found = store.batch(store.index(("train:0", "train:1", "test:0", "test:1"))).boxes
    assert found is not None
    np.testing.assert_array_equal(found[:, -1, 3], np.asarray([1, 0.5, 0.9, 0], np.float32))
    assert collection.provenance["options"]["box_units"] == "relative"


def test_the_units_of_boxes_are_those_of_all_splits(tmp_path: Path) -> None:
    sizes = np.full((2, 2), 50)
    # In pixels, and one image without any box.
    write_split(tmp_path / "d", "train", features(2), 10, boxes=corners(40, 0), img_sizes=sizes)
    write_split(tmp_path / "d", "test", features(2), 10, boxes=corners(0, 25), img_sizes=sizes)
    collection, store = take(tmp_path / "d", tmp_path / "c")
    found = store.batch(store.index(("train:0", "train:1", "test:0", "test:1"))).boxes
    assert found is not None
    np.testing.assert_array_equal(found[:, -1, 2], np.asarray([0.8, 0, 0, 0.5], np.float32))
    assert collection.provenance["options"]["box_units"] == "pixels"


@pytest.mark.parametrize(
    ("train", "test", "named"),
    [
        ((0.9, 1.2), (0.5, 0.7), r"train_boxes\.npy: row 1 reaches 1\.2, but 4 of 4"),
        ((0.9, 0.7), (300, 200), r"test_boxes\.npy: row 0 reaches 300, but 2 of 4"),
        ((1.5, 1.9), (1.2, 1.3), r"test_boxes\.npy: row 0 reaches 1\.2, but 4 of 4"),
    ],
)
def test_boxes_of_unclear_units_wait_for_a_word(
    tmp_path: Path, train: tuple[float, ...], test: tuple[float, ...], named: str
) -> None:
    for split, largest in (("train", train), ("test", test)):
        write_split(
            tmp_path / "d", split, features(2), 10, boxes=corners(*largest), img_sizes=np.full((2, 2), 400)
        )
    with pytest.raises(CrossAlignError, match=rf"{named} rows .*--box-units"):
        take(tmp_path / "d", tmp_path / "c")
    given = np.asarray([*train, *test], np.float32)
    order = ("train:0", "train:1", "test:0", "test:1")
    for units, expected in (("relative", np.clip(given, 0, 1)), ("pixels", given / 400)):
        _, store = take(tmp_path / "d", tmp_path / units, box_units=units)
        found = store.batch(store.index(order)).boxes
        assert found is not None
        np.testing.assert_allclose(found[:, -1, 3], expected, rtol=1e-6)


def test_units_without_boxes_are_refused(tmp_path: Path) -> None:
    write_split(tmp_path / "d", "dev", features(2), 10)
    with pytest.raises(CrossAlignError, match="--box-units pixels is given, but there are no boxes"):
        read_precomputed(tmp_path / "d", box_units="pixels")
    write_split(tmp_path / "d", "dev", features(2), 10, boxes=corners(1, 1))
    with pytest.raises(CrossAlignError, match="there are no boxes"):
        read_precomputed(tmp_path / "d", boxes=False, box_units="relative")


def test_boxes_that_are_not_finite_tell_nothing_about_units(tmp_path: Path) -> None:
    boxes = corners(0.5, 0.25)
    boxes[1, 0, 0], boxes[1, 0, 1] = np.inf, np.nan
    write_split(tmp_path / "d", "dev", features(2), 10, boxes=boxes)
    _, store = take(tmp_path / "d", tmp_path / "c", skip_bad=True)
    assert store.ids == ("dev:0",)
    np.testing.assert_array_equal(store.batch([0]).boxes, boxes[:1])


def test_bad_rows_and_lines_are_named_and_can_be_left_out(tmp_path: Path) -> None:
    array = np.repeat(features(5), 5, axis=0)
    array[7] += 1  # image 1: its second row differs
    array[10:15, 0, 0] = np.nan  # image 2
    lines = [f"sentence {k}".encode() for k in range(25)]
    lines[16] = b"caf\xe9"
    lines[17] = b"  "
    write_split(tmp_path / "d", "test", array, 25)
    (tmp_path / "d" / "test_caps.txt").write_bytes(b"\n".join(lines))
    with pytest.raises(SourceProblemsError) as caught:
        take(tmp_path / "d", tmp_path / "c")
    assert {(p.kind, p.name) for p in caught.value.problems} == {
        ("images whose repeated feature rows differ", "test:1 (test rows 5-9)"),
        ("images whose repeated feature rows differ", "test:2 (test rows 10-14)"),
        ("captions that are not UTF-8", "test_caps.txt line 17"),
        ("empty captions", "test_caps.txt line 18"),
    }
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    collection, store = take(tmp_path / "d", tmp_path / "c", skip_bad=True)
    assert store.ids == ("test:0", "test:3", "test:4")
    np.testing.assert_array_equal(stored(store, store.ids), array[[0, 15, 20]])
    split = collection.split("test")
    assert split.texts[5:8] == ("sentence 15", "sentence 18", "sentence 19")
    assert split.caption_ids[5:8] == ("test:3#0", "test:3#3", "test:3#4")


def test_infinite_features_are_found(tmp_path: Path) -> None:
    array = features(2)
    array[1, 2, 3] = np.inf
    write_split(tmp_path / "d", "test", array, 10)
    with pytest.raises(CrossAlignError, match=r"not finite \(1\): test:1 \(test row 1\)"):
        take(tmp_path / "d", tmp_path / "c")


def test_ids_that_stand_for_two_images_or_two_splits(tmp_path: Path) -> None:
    write_split(tmp_path / "d", "train", features(3), 15, ["1", "2", "1"])
    write_split(tmp_path / "d", "test", features(1), 5, ["2"])
    with pytest.raises(SourceProblemsError) as caught:
        take(tmp_path / "d", tmp_path / "c", splits=["train", "test"])
    assert [(p.kind, p.name) for p in caught.value.problems] == [
        ("duplicate image ids", "1 (train row 0)"),
        ("duplicate image ids", "1 (train row 2)"),
        ("images in more than one split", "2 (train and test)"),
    ]
    collection, store = take(tmp_path / "d", tmp_path / "c", skip_bad=True, splits=["train", "test"])
    assert store.ids == collection.split("train").image_ids == ("2",)
    np.testing.assert_array_equal(stored(store, ("2",)), features(3)[1:2])


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    def failing(message: str, **settings: object) -> None:
        with pytest.raises(CrossAlignError, match=message):
            take(tmp_path / "d", tmp_path / "c", **settings)  # type: ignore[arg-type]
        assert not (tmp_path / "c").exists()

    with pytest.raises(CrossAlignError, match=r"no files '<split>_caps\.txt'"):
        read_precomputed(tmp_path)
    write_split(tmp_path / "d", "dev", features(4), 19)
    failing("19 captions for 4 feature rows; there must be as many as rows, or 5 times")
    write_split(tmp_path / "d", "dev", features(4), 20, ["a", "b"])
    failing("2 ids for 4 images and 20 captions")
    write_split(tmp_path / "d", "dev", features(2), 10, list("aaaaabbbbc"))
    failing("the ids of image 1 of dev_caps.txt differ")
    write_split(tmp_path / "d", "dev", features(2), 10, ["a", ""])
    failing("dev_ids.txt: line 2 is empty")
    (tmp_path / "d" / "dev_ids.txt").unlink()
    failing("test_ims.npy: no such file", splits=["test"])
    write_split(tmp_path / "d", "test", features(2)[:, :2], 10)
    failing("the splits differ in regions and width")
    write_split(tmp_path / "d", "test", features(2), 10, boxes=np.zeros((2, REGIONS, 4)))
    failing("the splits differ in boxes .dev: no, test: yes.; leave them out with --no-boxes")
    write_split(tmp_path / "d", "test", features(2), 10, boxes=np.full((2, REGIONS, 4), 9.0))
    failing("boxes in pixels need the sizes", splits=["test"])
    write_split(tmp_path / "d", "test", features(2), 10, boxes=np.zeros((3, REGIONS, 4)))
    failing("test_boxes.npy: 3 rows for 2 images", splits=["test"])
    write_split(tmp_path / "d", "test", features(2), 10, boxes=np.zeros((2, 1, 4)))
    failing(r"boxes must be \(n, 3, 4\)", splits=["test"])
    write_split(tmp_path / "d", "test", features(2), 10, img_sizes=np.zeros((2, 2)))
    failing(r"sizes must be \(n, 2\)", splits=["test"], boxes=False)


@pytest.mark.parametrize("damage", ["pickle", "short", "empty", "integers", "text"])
def test_arrays_that_cannot_be_read(tmp_path: Path, damage: str) -> None:
    write_split(tmp_path / "d", "dev", features(2), 10)
    path = tmp_path / "d" / "dev_ims.npy"
    if damage == "pickle":
        np.save(path, np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    elif damage == "integers":
        np.save(path, np.zeros((2, 3, 4), np.int64))
    else:
        path.write_bytes({"short": path.read_bytes()[:-4], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(CrossAlignError, match=r"dev_ims.npy: (not a plain NumPy array|shape .* of int64)"):
        take(tmp_path / "d", tmp_path / "c")


def test_scanning_in_blocks_equals_one_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    array = features(40)[random.integers(0, 40, 60)]
    array[1::3] = array[::3]
    array[17, 1, 1] = np.nan
    write_split(tmp_path / "d", "dev", array, 60)
    arrays = open_arrays(tmp_path / "d", "dev", boxes=False)
    expected = [i > 0 and bool((array[i] == array[i - 1]).all()) for i in range(60)]
    assert any(expected)
    for rows in (1, 2, 7, 60, 1000):
        monkeypatch.setattr(
            "crossalign.data.importers.precomputed_arrays.BLOCK_BYTES", rows * array[0].nbytes
        )
        finite, repeats = scan_rows(arrays)
        assert repeats.tolist() == expected
        assert finite.tolist() == [i != 17 for i in range(60)]


KILLED = """
import os, signal, sys
from crossalign.data.features import FeatureWriter
from crossalign.data.importers import import_precomputed, precomputed_write, read_precomputed
precomputed_write.IMAGES_AT_A_TIME = 2
append = FeatureWriter.append
calls = 0
def dying(writer, features, boxes=None):
    global calls
    calls += 1
    writer._journal._sync_seconds = 0
    append(writer, features, boxes)
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
FeatureWriter.append = dying
units = sys.argv[4] if len(sys.argv) > 4 else None
import_precomputed(read_precomputed(sys.argv[1], box_units=units), sys.argv[2], called="data")
"""


def test_killed_while_copying_and_run_again_equals_uninterrupted(tmp_path: Path) -> None:
    write_split(tmp_path / "d", "train", features(9), 45)
    whole, _ = take(tmp_path / "d", tmp_path / "whole" / "c")
    for calls in (1, 3):
        run = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path / "d"), str(tmp_path / "cut" / "c"), str(calls)],
            check=False,
        )
        assert run.returncode == -signal.SIGKILL
        assert not (tmp_path / "cut" / "c").exists()
    (partial,) = (tmp_path / "cut").glob(".c.features-*")
    assert (partial / "features.bin").stat().st_size > 0
    resumed, _ = take(tmp_path / "d", tmp_path / "cut" / "c")
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["c"]
    assert resumed.images == whole.images
    for file in ("images.parquet", "captions.parquet", "features/features.bin", "features/ids.json"):
        assert (resumed.folder / file).read_bytes() == (whole.folder / file).read_bytes()


def test_features_that_changed_since_the_killed_run_are_not_mixed(tmp_path: Path) -> None:
    write_split(tmp_path / "d", "train", features(9), 45)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "d"), str(tmp_path / "out" / "c"), "2"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    write_split(tmp_path / "d", "train", features(9, seed=1), 45)
    _, store = take(tmp_path / "d", tmp_path / "out" / "c")
    np.testing.assert_array_equal(stored(store, store.ids), features(9, seed=1))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["c"]


def test_boxes_of_other_units_than_the_killed_run_are_not_mixed(tmp_path: Path) -> None:
    boxes = np.full((9, REGIONS, 4), 1.5, np.float32)
    sizes = np.full((9, 2), 3)
    write_split(tmp_path / "d", "train", features(9), 45, boxes=boxes, img_sizes=sizes)
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(tmp_path / "d"),
        str(tmp_path / "out" / "c"),
        "2",
        "relative",
    ]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    _, store = take(tmp_path / "d", tmp_path / "out" / "c", box_units="pixels")
    assert np.unique(store.batch(range(9)).boxes).tolist() == [0.5]


def test_real_captions_with_made_up_features(tmp_path: Path, shared_data: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    counts = {}
    for split in ("dev", "test"):
        text = (shared_data / "scan-precomp-captions" / f"{split}_caps.txt").read_text(encoding="utf-8")
        (folder / f"{split}_caps.txt").write_text(text, encoding="utf-8")
        counts[split] = text.count("\n")
    dev = features(counts["dev"] // 5, 1)
    test = features(counts["test"] // 5, 2)
    np.save(folder / "dev_ims.npy", np.repeat(dev, 5, axis=0))
    np.save(folder / "test_ims.npy", test)
    collection, store = take(folder, tmp_path / "c")
    assert {name: len(collection.split(name).texts) for name in collection.splits} == counts
    split = collection.split("dev")
    np.testing.assert_array_equal(stored(store, split.image_ids), dev)
    lines = (folder / "dev_caps.txt").read_text(encoding="utf-8").split("\n")
    for position in (0, 4, 5, 2534, counts["dev"] - 1):
        assert split.texts[position] == lines[position].strip()
        assert split.image_ids[split.image_of_text[position]] == f"dev:{position // 5}"
