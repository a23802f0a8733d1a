"""A feature store gives back what was written, refuses what is damaged, and survives kill -9."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crossalign.data.features import FeatureStore, FeatureWriter
from crossalign.errors import CrossAlignError

MANIFEST = {"kind": "image", "backbone": None, "regions": {"kind": "boxes"}, "source": "toy"}
UNITS = [3, 1, 5, 2, 4, 1, 7]
IDS = [f"photo {n}.jpg" for n in range(len(UNITS))]


def make_rows(seed: int = 0, dim: int = 6) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(units, dim)).astype(np.float32) for units in UNITS]


def make_boxes() -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.uniform(size=(units, 4)).astype(np.float32) for units in UNITS]


def ragged_writer(folder: Path, **changes) -> FeatureWriter:
    settings = {
        "ids": IDS, "dim": 6, "units": None, "dtype": "float16", "manifest": MANIFEST, "boxes": True,
    } | changes  # fmt: skip
    return FeatureWriter(folder, **settings)


def write_ragged(folder: Path, **changes) -> FeatureStore:
    with ragged_writer(folder, **changes) as writer:
        writer.append(make_rows()[:3], make_boxes()[:3])
        writer.append(make_rows()[3:], make_boxes()[3:])
        return writer.finish()


def write_fixed(folder: Path, dtype: str = "float32") -> tuple[FeatureStore, np.ndarray]:
    rows = np.random.default_rng(2).normal(size=(5, 4, 6)).astype(np.float32)
    with FeatureWriter(
        folder, ids=list("abcde"), dim=6, units=4, dtype=dtype, manifest={"kind": "image"}, boxes=False
    ) as writer:
        writer.append(list(rows))
        return writer.finish(), rows


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_ragged_batch_equals_plain_loop(tmp_path: Path, dtype: str) -> None:
    store = write_ragged(tmp_path / "store", dtype=dtype)
    rows, boxes = make_rows(), make_boxes()
    positions = [6, 1, 1, 0]
    batch = store.batch(positions)
    assert batch.features.shape == (4, 7, 6)
    assert batch.features.dtype == np.float32
    assert batch.boxes is not None
    for row, position in enumerate(positions):
        units = UNITS[position]
        np.testing.assert_array_equal(
            batch.features[row, :units], rows[position].astype(dtype).astype(np.float32)
        )
        np.testing.assert_array_equal(batch.boxes[row, :units], boxes[position])
        assert not batch.features[row, units:].any()
        assert not batch.boxes[row, units:].any()
        assert batch.mask[row].tolist() == [True] * units + [False] * (7 - units)
    assert store.unit_counts(positions).tolist() == [7, 1, 1, 3]
    assert (store.dim, store.dtype, store.ragged, len(store)) == (6, np.dtype(dtype), True, 7)
    assert store.ids == tuple(IDS)
    assert store.manifest["regions"] == {"kind": "boxes"}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_fixed_batch_equals_rows(tmp_path: Path, dtype: str) -> None:
    store, rows = write_fixed(tmp_path / "store", dtype)
    batch = store.batch(np.array([4, 0, 4]))
    np.testing.assert_array_equal(batch.features, rows[[4, 0, 4]].astype(dtype).astype(np.float32))
    assert batch.mask.all()
    assert batch.mask.shape == (3, 4)
    assert batch.boxes is None
    assert not store.ragged
    assert store.batch([]).features.shape == (0, 0, 6)
    batch.features[:] = 0  # a batch belongs to its reader; the store is untouched
    np.testing.assert_array_equal(store.batch([4]).features[0], rows[4].astype(dtype).astype(np.float32))


@pytest.mark.parametrize("positions", [[5], [-1]])
def test_positions_outside_are_refused(tmp_path: Path, positions: list[int]) -> None:
    with pytest.raises(IndexError, match="0 to 4"):
        write_fixed(tmp_path / "store")[0].batch(positions)


def test_index_names_the_first_missing_id(tmp_path: Path) -> None:
    store = write_ragged(tmp_path / "store")
    assert store.index([IDS[3], IDS[0], IDS[3]]).tolist() == [3, 0, 3]
    with pytest.raises(CrossAlignError, match=r"id 'x' has no features \(2 of 3 missing\)"):
        store.index([IDS[0], "x", "y", "x"])


def test_empty_store(tmp_path: Path) -> None:
    with ragged_writer(tmp_path / "store", ids=[]) as writer:
        store = writer.finish()
    assert len(store) == 0
    assert store.batch([]).features.shape == (0, 0, 6)


def test_bad_rows_are_refused(tmp_path: Path) -> None:
    writer = ragged_writer(tmp_path / "store")
    good, boxes = make_rows()[:1], make_boxes()[:1]
    with pytest.raises(ValueError, match="shape"):
        writer.append([np.zeros((3, 5), np.float32)], boxes)
    with pytest.raises(ValueError, match="boxes must be given"):
        writer.append(good)
    with pytest.raises(ValueError, match=r"boxes of 'photo 0\.jpg'"):
        writer.append(good, [boxes[0][:2]])
    with pytest.raises(CrossAlignError, match=r"'photo 0\.jpg' are too large for float16"):
        writer.append([np.full((3, 6), 1e5, np.float32)], boxes)
    with pytest.raises(CrossAlignError, match=r"'photo 0\.jpg' are not finite"):
        writer.append([np.full((3, 6), np.nan, np.float32)], boxes)
    with pytest.raises(ValueError, match="7 of 7 ids have no features yet"):
        writer.finish()
    assert writer.done == 0
    writer.append(make_rows(), make_boxes())
    with pytest.raises(ValueError, match="ids left"):
        writer.append(good, boxes)
    writer.finish()
    with pytest.raises(CrossAlignError, match="id 'a' occurs more than once"):
        ragged_writer(tmp_path / "twice", ids=["a", "b", "a"])


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", ["features.bin", "boxes.bin", "ids.json", "offsets.npy"])
@pytest.mark.parametrize("damage", ["cut", "lost"])
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: str) -> None:
    write_ragged(tmp_path / "store")
    path = tmp_path / "store" / name
    if damage == "cut":
        os.truncate(path, path.stat().st_size - 1)
    else:
        path.unlink()
    with pytest.raises(CrossAlignError, match=name):
        FeatureStore.open(tmp_path / "store")


@pytest.mark.parametrize(
    ("key", "value"), [("dim", 3), ("count", 6), ("dtype", "float32"), ("source", "other"), ("units", 4)]
)
def test_changed_manifest_is_refused(tmp_path: Path, key: str, value: object) -> None:
    write_ragged(tmp_path / "store")
    path = tmp_path / "store" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CrossAlignError, match=r"manifest\.json: changed since"):
        FeatureStore.open(tmp_path / "store")
    path.write_text(json.dumps({"format_version": 99}))
    with pytest.raises(CrossAlignError, match="format version 99"):
        FeatureStore.open(tmp_path / "store")


def test_unfinished_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    writer = ragged_writer(tmp_path / "store")
    writer.append(make_rows()[:2], make_boxes()[:2])
    writer.close()
    with pytest.raises(CrossAlignError, match="run the same extract command again to finish it"):
        FeatureStore.open(tmp_path / "store")
    with pytest.raises(CrossAlignError, match="not a feature store"):
        FeatureStore.open(tmp_path / "nowhere")
    with pytest.raises(CrossAlignError, match=r"other settings \(dtype\)"):
        ragged_writer(tmp_path / "store", dtype="float32")
    with pytest.raises(CrossAlignError, match=r"other settings \(ids_sha256\)"):
        ragged_writer(tmp_path / "store", ids=[*IDS[:-1], "z"])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "letter.txt").write_text("dear")
    with pytest.raises(CrossAlignError, match=r"holds other files \(letter\.txt\)"):
        ragged_writer(tmp_path / "notes")


def test_finished_store_is_continued_by_doing_nothing(tmp_path: Path) -> None:
    write_ragged(tmp_path / "store")
    before = folder_bytes(tmp_path / "store")
    with ragged_writer(tmp_path / "store") as writer:
        assert writer.done == len(IDS)
        writer.finish()
    assert folder_bytes(tmp_path / "store") == before
    with pytest.raises(CrossAlignError, match="other settings"):
        ragged_writer(tmp_path / "store", manifest=MANIFEST | {"source": "else"})


@pytest.mark.parametrize("lost", ["features.bin", "boxes.bin", "units.log"])
def test_bytes_that_never_reached_the_disk_are_written_again(tmp_path: Path, lost: str) -> None:
    write_ragged(tmp_path / "whole")
    writer = ragged_writer(tmp_path / "store", sync_seconds=0)
    writer.append(make_rows()[:5], make_boxes()[:5])
    writer.close()
    os.truncate(tmp_path / "store" / lost, (tmp_path / "store" / lost).stat().st_size - 3)
    writer = ragged_writer(tmp_path / "store")
    assert writer.done == 4
    writer.rewind(2)
    assert writer.done == 2
    writer.append(make_rows()[2:], make_boxes()[2:])
    writer.finish()
    assert folder_bytes(tmp_path / "store") == folder_bytes(tmp_path / "whole")


WRITE_SLOWLY = """
import sys, time
sys.path.insert(0, sys.argv[2])
from test_features import IDS, make_boxes, make_rows, ragged_writer
from pathlib import Path
with ragged_writer(Path(sys.argv[1]), sync_seconds=0) as writer:
    rows, boxes = make_rows(), make_boxes()
    for position in range(writer.done, len(IDS)):
        writer.append(rows[position:position + 1], boxes[position:position + 1])
        print(position, flush=True)
        time.sleep(0.02)
    writer.finish()
"""


def start_writer(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITE_SLOWLY, str(folder), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_killed_writer_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    write_ragged(tmp_path / "whole")
    folder = tmp_path / "store"
    for written in (0, 2, 1):  # each run is killed after that many more ids
        process = start_writer(folder)
        assert process.stdout is not None
        for _ in range(written + 1):
            process.stdout.readline()
        process.kill()
        process.communicate()
        with pytest.raises(CrossAlignError, match="unfinished"):
            FeatureStore.open(folder)
    resumed = ragged_writer(folder)
    start = resumed.done
    assert 5 <= start <= 7
    resumed.append(make_rows()[start:], make_boxes()[start:])
    resumed.finish()
    assert folder_bytes(folder) == folder_bytes(tmp_path / "whole")


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    process = start_writer(tmp_path / "store")
    assert process.stdout is not None
    process.stdout.readline()
    try:
        with pytest.raises(CrossAlignError, match="another process is writing"):
            ragged_writer(tmp_path / "store")
    finally:
        process.kill()
        process.communicate()


def _sum_of_batch(store: FeatureStore) -> float:
    return float(store.batch(range(len(store))).features.sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_store_travels_to_other_processes(tmp_path: Path, method: str) -> None:
    store = write_ragged(tmp_path / "store")
    expected = _sum_of_batch(store)
    assert len(pickle.dumps(store)) < 2000
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_sum_of_batch, (store,)) == expected


def test_features_are_mapped_on_first_use(tmp_path: Path) -> None:
    write_fixed(tmp_path / "store")
    store = FeatureStore.open(tmp_path / "store")
    mapped = str(tmp_path / "store" / "features.bin")
    assert mapped not in Path("/proc/self/maps").read_text()
    store.batch([0])
    assert mapped in Path("/proc/self/maps").read_text()
