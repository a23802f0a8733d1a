"""Teachers' vectors of a split: those of its ids, in the order asked for, and refused where they are none."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crossalign.data.collection import Collection
from crossalign.data.features import FeatureStore, FeatureWriter
from crossalign.data.teachers import TeacherSource
from crossalign.errors import CrossAlignError
from toy_collection import write_teachers, write_toy


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    folder = write_toy(tmp_path / "toy", images=12)
    write_teachers(folder)
    return Collection.load(folder)


def write(folder: Path, ids: list[str], kind: str = "image", units: int | None = 1, **teacher: str) -> None:
    with FeatureWriter(
        folder,
        ids=ids,
        dim=2,
        units=units,
        dtype="float16",
        manifest={"kind": kind, "teacher": teacher},
        boxes=False,
    ) as writer:
        writer.append([np.full((units or 1, 2), number, np.float32) for number in range(len(ids))])
        writer.finish()


def test_vectors_are_those_of_the_ids(collection: Collection) -> None:
    split = collection.split("val")
    source = TeacherSource.open(collection, split, "teacher-images", "teacher-texts")
    images, captions = np.array([1, 0]), np.array([2, 0, 1, 2])
    found = pickle.loads(pickle.dumps(source))(images, captions)
    for store, ids, rows in (
        ("teacher-images", [split.image_ids[i] for i in images], found.image),
        ("teacher-texts", [split.caption_ids[i] for i in captions], found.text),
    ):
        opened = FeatureStore.open(collection.folder / "features" / store)
        expected = opened.batch(opened.index(ids)).features[:, 0]
        assert rows.dtype.is_floating_point
        np.testing.assert_array_equal(rows.numpy(), expected)
        np.testing.assert_array_equal(opened.vectors(opened.index(ids)), expected)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    write(tmp_path / "store", ["a", "b", "c"])
    store = FeatureStore.open(tmp_path / "store")
    vectors = store.vectors([2, 0, 2])
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[2, 2], [0, 0], [2, 2]]
    assert store.vectors([]).shape == (0, 2)
    with pytest.raises(IndexError, match="positions are 0 to 2"):
        store.vectors([3])


def test_what_is_no_teacher_is_refused_in_one_line(collection: Collection, tmp_path: Path) -> None:
    split = collection.split("train")

    def refused(images: str, texts: str = "teacher-texts") -> str:
        with pytest.raises(CrossAlignError) as error:
            TeacherSource.open(collection, split, images, texts)
        assert "\n" not in str(error.value)
        return str(error.value)

    folder = collection.folder
    assert f"crossalign teach {folder} --images MODEL --out {folder}/features/nowhere" in refused("nowhere")
    assert f"crossalign teach {folder} --texts MODEL --out {folder}/features/no" in refused(
        "teacher-images", "no"
    )
    told = refused("toy")
    assert "data.teachers.images" in told
    assert "holds 5 vectors an id, and a teacher has one" in told
    assert "holds text features, not image features" in refused("teacher-texts")
    some = [name for name in split.image_ids if name != "i3"]
    write(tmp_path / "some", some)
    told = refused(str(tmp_path / "some"))
    assert f"id 'i3' has no features (1 of {len(split.image_ids)} missing)" in told
    assert told.endswith("run 'crossalign teach' again for this collection")
    write(tmp_path / "published", some, library="published", name="a.npy")
    told = refused(str(tmp_path / "published"))
    assert (
        f"id 'i3' has no features (1 of {len(split.image_ids)} missing); the published file a.npy lacks them"
        in told
    )
    assert "again" not in told
    write(tmp_path / "many", list(split.image_ids), units=None)
    assert "a varying number of vectors" in refused(str(tmp_path / "many"))
    with pytest.raises(ValueError, match="has 5 units an id, not one"):
        FeatureStore.open(folder / "features" / "toy").vectors([0])


@pytest.mark.parametrize("kind", ["image", "text"])
def test_vectors_of_zeros_are_refused(
    collection: Collection, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossalign.data.teachers._BLOCK", 3, raising=False)
    split, other = collection.split("train"), collection.split("test")
    own, rest = (
        (split.image_ids, other.image_ids) if kind == "image" else (split.caption_ids, other.caption_ids)
    )
    names = {"images": "teacher-images", "texts": "teacher-texts"}
    # The first of the store is zero: once of another split, once of this one.
    write(tmp_path / "elsewhere", [*rest, *own], kind)
    TeacherSource.open(collection, split, **(names | {f"{kind}s": str(tmp_path / "elsewhere")}))
    write(tmp_path / "zero", [own[5], *own[:5], *own[6:]], kind)
    with pytest.raises(CrossAlignError) as error:
        TeacherSource.open(collection, split, **(names | {f"{kind}s": str(tmp_path / "zero")}))
    told = str(error.value)
    assert told.startswith(
        f"data.teachers.{kind}s: {tmp_path / 'zero'}: the vector of '{own[5]}' is all zero"
    )
    assert "\n" not in told
