"""Teachers' stores: each vector is that of its photo or caption, and a killed run goes on to the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossalign.data.collection import CaptionRecord, Collection, ImageRecord
from crossalign.data.features import FeatureStore
from crossalign.data.photos import open_photo
from crossalign.encoders.inputs import InputSettings
from crossalign.errors import CrossAlignError
from crossalign.teachers import (
    ImageTeacher,
    ImageTeacherConfig,
    image_teacher,
    read_published,
    teach_images,
    teach_published,
    teach_texts,
)
from photo_collection import write_collection, write_weights

COUNT = 12
CHANGES: dict[str, Any] = {"size": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3}


@pytest.fixture
def collection(tmp_path: Path, tiny_photos: Callable[..., Any]) -> Collection:
    return write_collection(tmp_path / "collection", tiny_photos(COUNT))


@pytest.fixture
def teacher(tmp_path: Path) -> ImageTeacher:
    path = write_weights(tmp_path / "weights.safetensors")
    return image_teacher("test_byobnet", str(path), {}, CHANGES)


class StubTexts(nn.Module):
    """Says how long texts are; what of a text teacher the writing of stores uses."""

    dim = 2

    class config:  # noqa: N801
        @staticmethod
        def model_dump(mode: str) -> dict[str, Any]:
            return {"name": "lengths"}

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.stop_at: int | None = None

    def forward(self, texts: list[str]) -> Tensor:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return torch.tensor([[len(text), ord(text[-2])] for text in texts], dtype=torch.float32)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_photo_has_its_vector(collection: Collection, teacher: ImageTeacher, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dtype": "float32", "progress": False}
    done = teach_images(collection, tmp_path / "store", teacher, batch_size=5, **options)
    store = FeatureStore.open(tmp_path / "store")
    assert done.resumed == 0
    assert (store.manifest["kind"], store.manifest["units"]) == ("image", 1)
    assert store.manifest["teacher"]["weights_sha256"] == teacher.config.weights_sha256
    assert store.ids == tuple(image.id for image in collection.images)
    for image, vector in zip(collection.images, store.vectors(range(COUNT)), strict=True):
        photo = open_photo(collection.image_path(image.id))
        with torch.no_grad():
            expected = teacher(teacher.config.input(photo)[None])[0]
        np.testing.assert_allclose(vector, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_an_interrupted_run_ends_with_the_same_bytes(collection: Collection, tmp_path: Path) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.calls = 0

        def forward(self, pixels: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 4:  # the first looks how wide the vectors are
                raise KeyboardInterrupt
            return pixels.mean(dim=(2, 3)) * self.scale

    settings = InputSettings(size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    stub = ImageTeacher(
        ImageTeacherConfig(library="timm", name="stub", weights="none", input=settings), Network()
    )
    options: dict[str, Any] = {"batch_size": 3, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        teach_images(collection, tmp_path / "part", stub, **options)
    with pytest.raises(CrossAlignError, match="unfinished feature store"):
        FeatureStore.open(tmp_path / "part")
    assert teach_images(collection, tmp_path / "part", stub, **options).resumed == 6
    teach_images(collection, tmp_path / "whole", stub, **options)
    assert folder_bytes(tmp_path / "part") == folder_bytes(tmp_path / "whole")


def test_every_caption_has_its_vector_after_a_kill_too(collection: Collection, tmp_path: Path) -> None:
    texts: Any = StubTexts()
    texts.stop_at = 6
    options: dict[str, Any] = {"dtype": "float32", "batch_size": 2, "chunk": 4, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        teach_texts(collection, tmp_path / "store", texts, **options)
    done = teach_texts(collection, tmp_path / "store", texts, **options)
    assert done.resumed == 8
    said = [text for name in collection.splits for text in collection.split(name).texts]
    assert done.store.ids == tuple(
        caption for name in collection.splits for caption in collection.split(name).caption_ids
    )
    expected = [[len(text), ord(text[-2])] for text in said]
    np.testing.assert_array_equal(done.store.vectors(range(len(said))), expected)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_published_vectors_by_id(collection: Collection, tmp_path: Path, kind: Any) -> None:
    ids = (
        [image.id for image in collection.images]
        if kind == "image"
        else [name for part in collection.splits for name in collection.split(part).caption_ids]
    )
    random = np.random.default_rng(0)
    vectors = {name: random.normal(size=(1, 4)).astype(np.float32) for name in reversed(ids[1:])}
    np.save(tmp_path / "a.npy", {**vectors, "another": np.zeros((1, 4), np.float32)}, allow_pickle=True)  # type: ignore[arg-type]
    published = read_published(tmp_path / "a.npy")
    done = teach_published(collection, tmp_path / "store", kind, published, dtype="float32", progress=False)
    assert done.missing == (ids[0],)
    assert done.store.ids == tuple(ids[1:])
    assert done.store.manifest["teacher"]["weights_sha256"] == published.sha256
    expected = np.concatenate([vectors[name] for name in ids[1:]])
    np.testing.assert_array_equal(done.store.vectors(range(len(expected))), expected)


def test_published_vectors_that_do_not_fit_are_refused(collection: Collection, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", {"12": np.zeros(3, np.float32)}, allow_pickle=True)  # type: ignore[arg-type]
    told = r"has no image of .*collection \(its first id is '12', the collection's 'photo000.jpg'\)"
    with pytest.raises(CrossAlignError, match=told):
        teach_published(collection, tmp_path / "s", "image", read_published(tmp_path / "a.npy"))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("row", [(np.nan, 1.0), (0.0, 0.0), (1e30, 1.0), (1e-30, 0.0)])
def test_an_unfit_published_vector_leaves_nothing(
    collection: Collection, tmp_path: Path, row: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = {
        (0.0, 0.0): "all zero, which have no cosine",
        (1e30, 1.0): "too large for float16; use --dtype float32",
        (1e-30, 0.0): "too small for float16; use --dtype float32",
    }.get(row, "not finite; mend the file")
    # The last of its block, and not the first block: neither is looked at alone.
    monkeypatch.setattr("crossalign.teachers.published._BLOCK", 4, raising=False)
    values = np.ones((COUNT, 2), np.float32)
    values[7] = row
    names = [image.id for image in collection.images]
    (tmp_path / "ids.txt").write_text("\n".join(names))
    np.save(tmp_path / "bad.npy", values)
    options: dict[str, Any] = {"progress": False}
    published = read_published(tmp_path / "bad.npy", tmp_path / "ids.txt")
    with pytest.raises(CrossAlignError) as error:
        teach_published(collection, tmp_path / "s", "image", published, **options)
    assert f"bad.npy: the features of '{names[7]}' are {reason}" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "s").exists()
    values[7] = 1
    np.save(tmp_path / "bad.npy", values)
    published = read_published(tmp_path / "bad.npy", tmp_path / "ids.txt")
    assert len(teach_published(collection, tmp_path / "s", "image", published, **options).store) == COUNT


def test_a_network_that_gives_zeros_is_refused(collection: Collection, tmp_path: Path) -> None:
    class Silent(StubTexts):
        def forward(self, texts: list[str]) -> Tensor:
            return super().forward(texts) * torch.tensor([["1" not in text] for text in texts])

    silent: Any = Silent()
    said = {
        text: name
        for part in collection.splits
        for name, text in zip(collection.split(part).caption_ids, collection.split(part).texts, strict=True)
    }
    first = next(name for text, name in said.items() if "1" in text)
    with pytest.raises(CrossAlignError, match=f"'{first}' are all zero, which have no cosine"):
        teach_texts(collection, tmp_path / "store", silent, progress=False)

    class Dark(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, pixels: Tensor) -> Tensor:
            return pixels.mean(dim=(2, 3)) * self.scale

    settings = InputSettings(size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    dark = ImageTeacher(
        ImageTeacherConfig(library="timm", name="dark", weights="none", input=settings), Dark()
    )
    with pytest.raises(CrossAlignError, match=r"'photo000\.jpg' are all zero, which have no cosine"):
        teach_images(collection, tmp_path / "dark", dark, progress=False)


@pytest.mark.parametrize("by_dictionary", [True, False])
def test_photos_are_found_by_file_names_that_only_one_has(tmp_path: Path, by_dictionary: bool) -> None:
    files = {
        "1": "a/x.jpg",
        "2": "b/x.jpg",  # the last part is that of two
        "3": "b/y.jpg",
        "4": "c/z.jpg",
        "w.jpg": "c/v.jpg",  # its id is another one's last part
        "6": "d/w.jpg",
        "u.jpg": "d/t.jpg",  # found by its id, whatever else is there
    }
    images = [ImageRecord(name, file, 0, 0) for name, file in files.items()]
    captions = [CaptionRecord(f"c{name}", name, "a", "val" if name == "6" else "train") for name in files]
    collection = Collection.write(
        tmp_path / "c", name="c", image_root=None, images=images, captions=captions, provenance={}
    )
    published = {"x.jpg": 1, "b/x.jpg": 2, "y.jpg": 3, "4": 4, "z.jpg": 5, "w.jpg": 6, "u.jpg": 7, "t.jpg": 8}
    if by_dictionary:
        rows = {name: np.full(2, number, np.float32) for name, number in published.items()}
        np.save(tmp_path / "a.npy", rows, allow_pickle=True)  # type: ignore[arg-type]
        read = read_published(tmp_path / "a.npy")
    else:
        np.save(tmp_path / "a.npy", np.array([[number] * 2 for number in published.values()], np.float32))
        (tmp_path / "ids.txt").write_text("\n".join(published))
        read = read_published(tmp_path / "a.npy", tmp_path / "ids.txt")
    done = teach_published(collection, tmp_path / "s", "image", read, progress=False)
    found = dict(zip(done.store.ids, done.store.vectors(range(len(done.store)))[:, 0].tolist(), strict=True))
    assert found == {"2": 2, "3": 3, "4": 4, "w.jpg": 6, "u.jpg": 7}
    assert done.by_file_name == 2
    assert done.missing == ("1", "6")
    assert done.missing_of == {"train": (1, 6), "val": (1, 1)}
