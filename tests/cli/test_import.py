"""The import command end to end: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crossalign.cli.main import main
from crossalign.data import Collection
from crossalign.data.features import FeatureStore


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run ``crossalign import ...``: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["import", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def karpathy(tmp_path: Path, tiny_photos: Callable) -> tuple[Path, Path]:
    photos = tiny_photos(6)
    entries = [
        {
            "filename": name,
            "split": "train" if number < 3 else "restval" if number < 4 else "test",
            "sentences": [
                {"raw": text, "sentid": 10 * number + k} for k, text in enumerate(photos.captions[name])
            ],
        }
        for number, name in enumerate(photos.names)
    ]
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"images": entries}))
    return path, photos.folder


def test_karpathy_prints_a_table_of_splits(
    karpathy: tuple[Path, Path], tmp_path: Path, run: Callable
) -> None:
    path, photos = karpathy
    code, out, err = run(
        "karpathy", path, "--images", photos, "--out", tmp_path / "c", "--name", "six photos"
    )
    assert (code, err) == (0, "")
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if "│" in line]
    assert rows == [["train", "4", "7", "1", "1.75", "3"], ["test", "2", "5", "2", "2.50", "3"]]
    assert "six photos" in out
    collection = Collection.load(tmp_path / "c")
    assert collection.image_path("photo000.jpg").is_file()


def test_json_of_a_good_import(karpathy: tuple[Path, Path], tmp_path: Path, run: Callable) -> None:
    path, photos = karpathy
    code, out, err = run(
        "karpathy", path, "--images", photos, "--out", tmp_path / "c", "--keep-restval", "--json"
    )
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["imported"] is True
    assert {name: split["captions"] for name, split in document["splits"].items()} == {
        "train": 6,
        "restval": 1,
        "test": 5,
    }
    assert document["skipped"] == {}


def test_problems_are_all_named_and_nothing_is_written(
    karpathy: tuple[Path, Path], tmp_path: Path, run: Callable
) -> None:
    path, photos = karpathy
    (photos / "photo000.jpg").unlink()
    (photos / "photo001.png").write_text("no picture")
    document = json.loads(path.read_text())
    document["images"][2]["sentences"][0]["raw"] = "   "
    path.write_text(json.dumps(document))
    arguments = ("karpathy", path, "--images", photos, "--out", tmp_path / "c")
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert lines[0].startswith(f"crossalign: {path}: 3 problems, nothing was written; ")
    assert lines[0].endswith("with --skip-bad")
    assert set(lines[1:]) == {
        "  empty captions (1): 20 of photo002.jpg",
        "  missing image files (1): photo000.jpg",
        "  broken images (1): photo001.png (not an image)",
    }
    assert not (tmp_path / "c").exists()
    code, out, err = run(*arguments, "--json")
    assert code == 1
    assert json.loads(out) == {
        "imported": False,
        "problems": {
            "empty captions": ["20 of photo002.jpg"],
            "missing image files": ["photo000.jpg"],
            "broken images": ["photo001.png (not an image)"],
        },
    }
    code, out, err = run(*arguments, "--skip-bad")
    assert code == 0
    assert set(err.splitlines()) == {
        "left out: 1 empty captions",
        "left out: 1 missing image files",
        "left out: 1 broken images",
    }
    assert len(Collection.load(tmp_path / "c").images) == 4


def test_existing_folders(karpathy: tuple[Path, Path], tmp_path: Path, run: Callable) -> None:
    path, photos = karpathy
    arguments = ("karpathy", path, "--images", photos, "--out", tmp_path / "c")
    assert run(*arguments)[0] == 0
    code, _, err = run(*arguments)
    assert code == 1
    assert err.startswith(f"crossalign: {tmp_path / 'c'}: already exists; ")
    assert err.count("\n") == 1
    assert run(*arguments, "--overwrite", "--name", "again")[0] == 0
    assert Collection.load(tmp_path / "c").name == "again"
    code, _, err = run("karpathy", path, "--images", photos, "--out", photos, "--overwrite")
    assert code == 1
    assert "holds more than a collection" in err
    assert (photos / "photo000.jpg").is_file()


def test_table_with_drawn_splits(tmp_path: Path, tiny_photos: Callable, run: Callable) -> None:
    photos = tiny_photos(10)
    table = tmp_path / "captions.tsv"
    rows = [f"{name}\t{text}" for name in photos.names for text in photos.captions[name]]
    table.write_text("\n".join(["url\ttext", *rows]) + "\n")
    arguments = (
        "table",
        table,
        "--images",
        photos.folder,
        "--image-column",
        "url",
        "--caption-column",
        "text",
    )
    code, _, err = run(*arguments, "--out", tmp_path / "c")
    assert code == 1
    assert "give --split NAME" in err
    assert err.count("\n") == 1
    sizes = ("--split-sizes", "val=0.1,test=2")
    ids = []
    for name, seed in (("a", 0), ("b", 0), ("c", 4)):
        assert run(*arguments, "--out", tmp_path / name, *sizes, "--seed", seed)[0] == 0
        collection = Collection.load(tmp_path / name)
        assert [len(collection.split(split).image_ids) for split in ("train", "val", "test")] == [7, 1, 2]
        ids.append(collection.split("test").image_ids)
    assert ids[0] == ids[1] != ids[2]
    code, _, err = run(*arguments, "--out", tmp_path / "d", "--split", "all", *sizes)
    assert (code, "exclude each other" in err) == (1, True)


def test_folder_as_one_split(tiny_photos: Callable, tmp_path: Path, run: Callable) -> None:
    photos = tiny_photos(3)
    for name, captions in photos.captions.items():
        (photos.folder / name).with_suffix(".txt").write_text("\n".join(captions))
    code, out, _ = run("folder", photos.folder, "--out", tmp_path / "c", "--split", "test", "--json")
    assert (code, json.loads(out)["splits"]["test"]["captions"]) == (0, 6)


def test_cusa_files(tiny_photos: Callable, tmp_path: Path, run: Callable) -> None:
    photos = tiny_photos(4)
    files = []
    for split, names in (("train", photos.names[:3]), ("test", photos.names[3:])):
        files.append(photos.folder / f"new_{split}.json")
        files[-1].write_text(
            json.dumps(
                [{"image_path": n, "caption": t, "image_id": n} for n in names for t in photos.captions[n]]
            )
        )
    code, out, _ = run("cusa", *files, "--out", tmp_path / "c", "--json")
    assert (code, list(json.loads(out)["splits"])) == (0, ["train", "test"])
    code, out, _ = run("cusa", files[0], "--split", "dev", "--out", tmp_path / "d", "--json")
    assert (code, list(json.loads(out)["splits"])) == (0, ["dev"])
    code, _, err = run("cusa", files[0], "--split", "dev", "--split-sizes", "val=1", "--out", tmp_path / "e")
    assert (code, "exclude each other" in err) == (1, True)
    unnamed = files[0].rename(photos.folder / "pairs.json")
    code, _, err = run("cusa", unnamed, "--out", tmp_path / "e")
    assert (code, "give --split NAME" in err) == (1, True)


def test_precomputed_with_a_feature_store(tmp_path: Path, run: Callable) -> None:
    folder = tmp_path / "precomp"
    folder.mkdir()
    for split, count in (("train", 4), ("test", 2)):
        array = np.random.default_rng(count).normal(size=(count, 3, 8)).astype(np.float32)
        np.save(folder / f"{split}_ims.npy", np.repeat(array, 5, axis=0))
        (folder / f"{split}_caps.txt").write_text("".join(f"sentence {k}\n" for k in range(5 * count)))
    code, out, _ = run("precomputed", folder, "--out", tmp_path / "c", "--json", "--dtype", "float16")
    assert (code, json.loads(out)["images"]) == (0, 6)
    store = FeatureStore.open(tmp_path / "c" / "features")
    assert (len(store), store.dim, store.dtype) == (6, 8, np.float16)
    code, out, _ = run(
        "precomputed", folder, "--out", tmp_path / "c", "--overwrite", "--splits", "test", "--json"
    )
    assert (code, json.loads(out)["images"]) == (0, 2)
    assert len(FeatureStore.open(tmp_path / "c" / "features")) == 2
    (folder / "train_ims.npy").write_bytes(b"")
    code, _, err = run("precomputed", folder, "--out", tmp_path / "d")
    assert (code, err.count("\n")) == (1, 1)
    assert "train_ims.npy: not a plain NumPy array" in err


def test_units_of_precomputed_boxes(tmp_path: Path, run: Callable) -> None:
    folder = tmp_path / "precomp"
    folder.mkdir()
    np.save(folder / "test_ims.npy", np.ones((1, 1, 8), np.float32))
    np.save(folder / "test_boxes.npy", np.asarray([[[0, 0, 1.5, 1.5]]]))
    (folder / "test_caps.txt").write_text("".join(f"sentence {k}\n" for k in range(5)))
    code, _, err = run("precomputed", folder, "--out", tmp_path / "c")
    assert (code, err.count("\n"), "--box-units relative" in err) == (1, 1, True)
    assert run("precomputed", folder, "--out", tmp_path / "c", "--box-units", "relative")[0] == 0
    boxes = FeatureStore.open(tmp_path / "c" / "features").batch([0]).boxes
    assert boxes is not None
    assert boxes.tolist() == [[[0, 0, 1, 1]]]
    code, _, err = run("precomputed", folder, "--out", tmp_path / "d", "--box-units", "pixels")
    assert (code, "boxes in pixels need the sizes" in err) == (1, True)


@pytest.mark.parametrize("command", ["karpathy", "table", "folder", "cusa", "precomputed"])
def test_missing_sources_and_help(command: str, tmp_path: Path, run: Callable) -> None:
    extra = ("--images", tmp_path) if command == "karpathy" else ()
    code, out, err = run(command, tmp_path / "none", "--out", tmp_path / "c", *extra)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert str(tmp_path / "none") in err
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "--skip-bad" in out
    assert run(command)[0] == 2
