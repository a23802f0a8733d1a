"""``crossalign train``, ``evaluate`` and ``compare`` as a user calls them."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crossalign.cli.main import main
from crossalign.data.collection import Collection
from crossalign.data.extract import extract_images
from crossalign.encoders.backbone import ImageBackbone
from crossalign.evaluation import RetrievalResult, of_model
from crossalign.model import RetrievalModel
from crossalign.recipe import available_recipes, load_recipe
from crossalign.sources import Sources
from crossalign.training import trainer
from crossalign.training.checkpoint import load_checkpoint
from photo_collection import backbone, paint, write_collection, write_weights

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "model": {
        "dim": 12,
        "context_head": True,
        "text": {"encoder": {"kind": "gru", "word_dim": 8, "min_count": 1}},
    },
    "objective": {"base": {"kind": "contrastive"}, "lca": {"concepts": 8}, "cra": {}},
    "optimizer": {"learning_rate": 0.01},
    "training": {"epochs": 3, "batch_size": 8, "checkpoint_every": 1, "log_every": 2, "accelerator": "cpu"},
}


@dataclass(frozen=True)
class World:
    """A collection with two stores, a recipe on the first one, and a run of it made by the command line."""

    folder: Path
    collection: Collection
    recipe: Path
    run: Path
    outcome: dict[str, Any]


Call = Callable[..., tuple[int, str, str]]


def call_main(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line: exit code, standard output, standard error."""
    return lambda *arguments: call_main(capsys, *arguments)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    collection = write_collection(folder / "collection", paint(folder / "photos", 24))
    for name in ("test_byobnet", "test_resnet"):
        settings = backbone(write_weights(folder / f"{name}.safetensors", name), name=name, layer=2)
        store = collection.folder / "features" / name
        extract_images(collection, store, ImageBackbone(settings), dtype="float32", progress=False)
    recipe = folder / "tiny.yaml"
    data = {"collection": str(collection.folder), "image_features": ["test_byobnet"]}
    recipe.write_text(yaml.safe_dump({**RECIPE, "data": data}))
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("typer.echo", lambda text, **_: printed.append(text))
        with pytest.raises(SystemExit) as ended:
            main(["train", str(recipe), "--out", str(folder / "run"), "--json"])
        assert not ended.value.code
    return World(folder, collection, recipe, folder / "run", json.loads(printed[0]))


def one_line(text: str) -> str:
    """The last thing told, after any progress bar."""
    assert text.endswith("\n")
    lines = [line for line in text.splitlines() if line.startswith("crossalign: ")]
    assert len(lines) == 1
    assert text.splitlines()[-1] == lines[0]
    return lines[0]


# ---- train


def test_a_run_holds_all_that_was_promised(world: World) -> None:
    names = {"recipe.yaml", "metrics.jsonl", "tensorboard", "checkpoints", "model", "training.json"}
    assert {path.name for path in world.run.iterdir()} - {"results"} == names
    assert world.outcome == {"run": str(world.run), **json.loads((world.run / "training.json").read_text())}
    assert set(world.outcome) == {
        "run", "best_rsum", "best_epoch", "epochs", "steps", "seconds", "data_seconds", "cpu_seconds",
    }  # fmt: skip
    assert (world.outcome["epochs"], world.outcome["steps"]) == (3, 12)
    assert load_recipe(world.run / "recipe.yaml") == load_recipe(world.recipe)
    assert list((world.run / "tensorboard").iterdir())


def test_training_tells_what_came_out_and_what_to_do_next(world: World, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "my run"
    code, said, _ = call("train", world.recipe, "-o", out, "--set", "training.epochs=1", "--seed", 3)
    assert code == 0
    assert "best validation R@sum" in said
    assert "after epoch 1 of 1; 4 steps" in said
    assert said.splitlines()[-1] == f"next:  crossalign evaluate '{out}'"
    recipe = load_recipe(out / "recipe.yaml")
    assert (recipe.seed, recipe.training.epochs) == (3, 1)


def test_the_folder_is_named_after_the_recipe(
    world: World, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("train", world.recipe, "--set", "name=mine", "--set", "training.epochs=1", "--json")
    assert code == 0
    assert json.loads(out)["run"] == "runs/mine"
    assert (tmp_path / "runs" / "mine" / "model" / "config.json").is_file()


def test_list_and_show_train_nothing(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call("train", "--list")
    names, told = zip(*(line.split(maxsplit=1) for line in out.splitlines()), strict=True)
    assert (code, names, err) == (0, available_recipes(), "")
    assert told[names.index("flickr8k-vse-infinity")] == (
        "VSE-infinity (Chen et al., CVPR 2021) on Flickr8k: grid cells and MiniLM tokens, pooled by GPO"
    )
    assert all(30 < len(words) < 230 for words in told)
    name = "scenes-vse-selfalign"
    code, out, err = call(
        "train",
        name,
        "--show",
        "--set",
        "objective.lca.concepts=7",
        "--set",
        "objective.cra=null",
        "--seed",
        9,
    )
    assert (code, err) == (0, "")
    (tmp_path / "shown.yaml").write_text(out)
    expected = load_recipe(name, ["objective.lca.concepts=7", "objective.cra=null", "seed=9"])
    assert load_recipe(tmp_path / "shown.yaml") == expected
    assert expected.objective.cra is None
    assert [path.name for path in tmp_path.iterdir()] == ["shown.yaml"]


def test_no_recipe_is_a_wrong_call(call: Call) -> None:
    code, out, err = call("train")
    assert (code, out) == (2, "")
    assert "scenes-vse-selfalign" in " ".join(err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "no recipe 'nonsense'; there are flickr8k-camera"),
        (
            ["flickr8k-vsee"],
            "no recipe 'flickr8k-vsee', did you mean flickr8k-vse? crossalign train --list names",
        ),
        (
            ["RECIPE", "--set", "training.mini_batch_size=4096"],
            "training.mini_batch_size is 4096, and a batch has",
        ),
        (["none.yaml"], "none.yaml: no such recipe file"),
        (["RECIPE", "--set", "training.epoch=3"], "unknown key 'training.epoch'"),
        (["RECIPE", "--set", "training.epochs=many"], "training.epochs: input should be a valid integer"),
        (["RECIPE", "--set", "training.epochs=0"], "training.epochs: input should be greater than"),
        (["RECIPE", "--set", "training.epochs"], "--set training.epochs: not of the form section.key=value"),
        (["RECIPE", "--set", "model.dim=[1"], "--set model.dim=[1: the value is not valid YAML"),
        (["RECIPE", "--set", "name.deep=1"], "name: input should be a valid string"),
        (["RECIPE", "--seed", "-1"], "seed: input should be greater than or equal to 0"),
        (["RECIPE", "--seed", str(2**63)], "seed: input should be less than 9223372036854775808"),
        (["RECIPE", "--set", "data.collection=none"], "none: not a collection"),
        (["RECIPE", "--set", "data.train=trian"], "no split 'trian'; it has train, val, test"),
        (["RECIPE", "--set", "data.image_features=[none]"], "no FeatureStore 'none'"),
        (["RECIPE", "--set", "data.flip=0.5"], "data.flip changes photos"),
        (["RECIPE", "--set", "training.precision=fp16"], "fp16 needs a GPU"),
        (
            ["RECIPE", "--set", "training.accelerator=cuda"],
            "training.accelerator: cuda is not available here",
        ),
        (["RECIPE", "--set", "training.batch_size=100"], "do not fill one batch of 100"),
    ],
)
def test_bad_settings_end_with_one_line_and_leave_nothing(
    world: World, tmp_path: Path, call: Call, arguments: list[str], message: str
) -> None:
    if "cuda" in arguments[-1] and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    out = tmp_path / "run"
    named = [world.recipe if argument == "RECIPE" else argument for argument in arguments]
    code, printed, err = call("train", *named, "--out", out)
    assert (code, printed) == (1, "")
    assert message in one_line(err)
    assert not out.exists()


@pytest.mark.parametrize("saved", [True, False])
def test_ctrl_c_tells_how_to_go_on(
    world: World, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    real = trainer.save_checkpoint

    def pressed(path: Path, state: dict[str, Any]) -> None:
        if saved:
            real(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "save_checkpoint", pressed)
    code, out, err = call("train", world.recipe, "--out", tmp_path / "run")
    assert (code, out) == (130, "")
    means = "goes on from its last checkpoint" if saved else "begins anew"
    assert f"{tmp_path / 'run'}: stopped; --resume auto {means}" in err
    monkeypatch.undo()
    assert call("train", world.recipe, "--out", tmp_path / "run", "--resume", "auto")[0] == 0


@pytest.mark.parametrize("name", ["../up", "a/b", "''", ".."])
def test_a_name_that_is_no_folders_needs_out(
    world: World, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed, err = call("train", world.recipe, "--set", f"name={name}")
    assert (code, printed) == (1, "")
    assert "say where with --out" in one_line(err)
    assert list(tmp_path.iterdir()) == []
    assert call("train", world.recipe, "--set", f"name={name}", "--out", "here")[0] == 0


def test_a_run_in_the_way_is_kept_continued_or_told_apart(world: World, call: Call) -> None:
    before = {path: path.stat().st_mtime_ns for path in world.run.rglob("*")}
    code, out, err = call("train", world.recipe, "--out", world.run)
    assert (code, out) == (1, "")
    assert "holds a run already; continue it with --resume auto" in one_line(err)
    code, out, _ = call("train", world.recipe, "--out", world.run, "--resume", "auto", "--json")
    assert (code, json.loads(out)) == (0, world.outcome)
    code, _, err = call("train", world.recipe, "--out", world.run, "--resume", "auto", "--seed", 4)
    assert code == 1
    assert "another recipe (seed)" in one_line(err)
    assert call("train", world.recipe, "--out", world.run, "--resume", "perhaps")[0] == 2
    assert {path: path.stat().st_mtime_ns for path in world.run.rglob("*")} == before


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is told is told before data are opened and a model is built."""

    def opened(*_: object) -> None:
        raise AssertionError("the data were opened")

    monkeypatch.setattr(Sources, "open", opened)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        ("recipe.yaml", b"name: [tiny", "recipe.yaml: not valid YAML"),
        ("recipe.yaml", b"name: caf\xe9", "recipe.yaml: not UTF-8 (byte 9)"),
        ("recipe.yaml", b"- tiny", "recipe.yaml: not a mapping of settings; the run there cannot go on"),
        ("recipe.yaml", b"name: tiny", "data: field required; the run there cannot go on"),
        ("training.json", b"{", "; remove it, and --resume auto writes it again"),
        ("training.json", b"[]", "training.json: does not hold best_epoch, best_rsum"),
        ("training.json", b'{"best": 3}', "training.json: does not hold best_epoch, best_rsum"),
        ("model", None, "model: the model of this run is gone; put it back, or remove"),
        ("model/config.json", None, "model: the model of this run is gone; put it back, or remove"),
    ],
)
def test_what_is_left_of_a_run_is_told(
    world: World, tmp_path: Path, call: Call, place: str, content: bytes | None, message: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(world.run, run)
    if content is not None:
        (run / place).write_bytes(content)
    elif (run / place).is_dir():
        shutil.rmtree(run / place)
    else:
        (run / place).unlink()
    code, out, err = call("train", world.recipe, "--out", run, "--resume", "auto")
    assert (code, out) == (1, "")
    assert message in one_line(err)


def test_a_training_json_of_other_values_can_be_written_again(
    world: World, tmp_path: Path, call: Call
) -> None:
    run = tmp_path / "run"
    shutil.copytree(world.run, run)
    told = json.loads((run / "training.json").read_text())
    (run / "training.json").write_text(json.dumps(told | {"best_rsum": "high"}))
    code, _, err = call("train", world.recipe, "--out", run, "--resume", "auto")
    assert code == 1
    assert "best_rsum is not a number; remove it, and --resume auto writes it again" in one_line(err)
    (run / "training.json").unlink()
    assert call("train", world.recipe, "--out", run, "--resume", "auto")[0] == 0
    assert json.loads((run / "training.json").read_text()) == told
    # The same run without its best weights: the checkpoint has only the last ones.
    (run / "training.json").unlink()
    shutil.rmtree(run / "model")
    code, _, err = call("train", world.recipe, "--out", run, "--resume", "auto")
    assert code == 1
    assert "the model of this run is gone" in one_line(err)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("place", ["file", "file/run", "file/a/b"])
def test_a_file_in_the_way_of_a_run_is_told(world: World, tmp_path: Path, call: Call, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    code, out, err = call("train", world.recipe, "--out", tmp_path / place)
    assert (code, out) == (1, "")
    assert f"{tmp_path / 'file'}: not a folder; choose another place for the run (--out)" in one_line(err)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.usefixtures("untrained")
def test_a_run_replaces_no_model_with_other_things_in_it(world: World, tmp_path: Path, call: Call) -> None:
    run = tmp_path / "run"
    shutil.copytree(world.run / "model", run / "model")
    (run / "model" / "notes.txt").write_text("mine")
    shutil.copyfile(world.run / "recipe.yaml", run / "recipe.yaml")
    code, out, err = call("train", world.recipe, "--out", run, "--resume", "auto")
    assert (code, out) == (1, "")
    assert "model: holds 'notes.txt', which is of no crossalign model" in one_line(err)
    assert (run / "model" / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_folder_of_other_things_is_no_place_for_a_run(
    world: World, tmp_path: Path, call: Call, resume: str
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dog.jpg").write_text("mine")
    code, out, err = call("train", world.recipe, "--out", tmp_path / "photos", "--resume", resume)
    assert (code, out) == (1, "")
    assert one_line(err) == (
        f"crossalign: {tmp_path / 'photos'}: holds 'dog.jpg' and no run (recipe.yaml is missing); "
        "choose another folder (--out)"
    )
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["dog.jpg"]


def test_an_empty_folder_and_a_run_killed_over_its_first_file_are_trained_in(
    world: World, tmp_path: Path, call: Call
) -> None:
    for name, left in (("empty", None), ("killed", ".recipe.yaml.abcd1234.tmp")):
        (tmp_path / name).mkdir()
        if left is not None:
            (tmp_path / name / left).write_text("name: ti")
        assert call("train", world.recipe, "--out", tmp_path / name, "--set", "training.epochs=1")[0] == 0
        assert left is None or not (tmp_path / name / left).exists()


def test_a_run_of_before_a_setting_existed_goes_on(world: World, tmp_path: Path, call: Call) -> None:
    run = tmp_path / "run"
    shutil.copytree(world.run, run)
    values = yaml.safe_load((run / "recipe.yaml").read_text())
    del values["training"]["patience"]
    values["training"]["log_every"] += 1
    (run / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert call("train", world.recipe, "--out", run, "--resume", "auto")[0] == 0


def test_an_interrupted_run_goes_on(
    world: World, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer.check_finite

    def interrupting(terms: Any, norm: Any, step: int, batch: Any) -> None:
        if step == 7:
            raise KeyboardInterrupt
        real(terms, norm, step, batch)

    monkeypatch.setattr(trainer, "check_finite", interrupting)
    code, out, err = call("train", world.recipe, "--out", tmp_path / "run")
    assert (code, out) == (130, "")
    assert "Traceback" not in err
    monkeypatch.undo()
    code, out, _ = call("train", world.recipe, "--out", tmp_path / "run", "--resume", "auto", "--json")
    assert code == 0
    assert json.loads(out)["best_rsum"] == world.outcome["best_rsum"]
    one, two = (
        load_checkpoint(run / "checkpoints" / "last.ckpt")["weights"] for run in (world.run, tmp_path / "run")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_without_tensorboard_a_run_is_the_same_less_its_folder(
    world: World, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    settings = ["--set", "training.epochs=1"]
    code, _, err = call("train", world.recipe, "--out", tmp_path / "run", *settings)
    assert code == 0, err
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert (tmp_path / "run" / "metrics.jsonl").is_file()


# ---- evaluate


def test_a_run_is_evaluated_on_its_own_collection_and_features(world: World, call: Call) -> None:
    code, out, _ = call("evaluate", world.run, "--json")
    assert code == 0
    document = json.loads(out)
    saved = RetrievalResult.load(world.run / "results" / "test")
    assert document == json.loads(json.dumps(saved.to_dict()))
    assert (saved.collection, saved.split) == ("tiny", "test")
    assert saved.model == RetrievalModel.from_pretrained(world.run).fingerprint
    code, out, _ = call("evaluate", world.run)
    assert code == 0
    assert f"{saved.metrics['rsum']:.1f}" in out
    assert out.splitlines()[-1] == f"saved: {world.run / 'results' / 'test'}"


def test_the_command_of_a_result_can_be_repeated(
    world: World, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["evaluate", str(world.run), "--out", str(tmp_path / "my result")]
    monkeypatch.setattr("sys.argv", ["crossalign", *arguments])
    assert call(*arguments)[0] == 0
    command = RetrievalResult.load(tmp_path / "my result").command
    assert shlex.split(command) == ["crossalign", *arguments]


def test_a_file_in_place_of_the_result_is_told_first(world: World, tmp_path: Path, call: Call) -> None:
    (tmp_path / "file").write_text("mine")
    # Before any work: there is no such model either.
    for model in (world.run, "none"):
        code, _, err = call("evaluate", model, "--out", tmp_path / "file")
        assert (code, one_line(err)) == (
            1,
            f"crossalign: {tmp_path / 'file'}: not a folder; choose another place (--out)",
        )
    code, _, err = call("evaluate", world.run, "--out", tmp_path / "file" / "x")
    assert (code, "Not a directory; a part of this path is a file" in one_line(err)) == (1, True)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("index.json", "{}"),
        ("results.json", '{"task": "mine"}'),
        ("results.json", "[1]"),
        ("notes.txt", "mine"),
    ],
)
def test_a_folder_of_other_things_is_no_place_for_a_result(
    tmp_path: Path, call: Call, file: str, content: str
) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / file).write_text(content)
    # Before any work: there is no such model either.
    code, out, err = call("evaluate", "none", "--out", tmp_path / "place")
    assert (code, out) == (1, "")
    assert one_line(err) == (
        f"crossalign: {tmp_path / 'place'}: holds '{file}', which is of no result; choose another folder (--out)"
    )
    assert {path.name: path.read_text() for path in (tmp_path / "place").iterdir()} == {file: content}


def test_a_result_is_replaced_also_a_damaged_one(world: World, tmp_path: Path, call: Call) -> None:
    place = tmp_path / "place"
    place.mkdir()
    for _ in range(2):
        assert call("evaluate", world.run, "--out", place)[0] == 0
        assert RetrievalResult.load(place).split == "test"
        (place / "results.json").write_text('{"format": ')


def test_the_split_that_chose_the_model_gives_the_score_of_training(world: World, call: Call) -> None:
    code, out, _ = call("evaluate", world.run, "--split", "val", "--json")
    assert code == 0
    assert json.loads(out)["metrics"]["rsum"] == pytest.approx(world.outcome["best_rsum"])
    assert RetrievalResult.load(world.run / "results" / "val").split == "val"


def test_raw_photos_give_what_the_store_gives(world: World, tmp_path: Path, call: Call) -> None:
    _, stored, _ = call("evaluate", world.run, "--json", "--out", tmp_path / "stored")
    code, raw, _ = call("evaluate", world.run, "--raw", "--json", "--out", tmp_path / "raw")
    assert code == 0
    assert json.loads(raw)["metrics"] == json.loads(stored)["metrics"]
    assert json.loads(raw)["model"] == json.loads(stored)["model"]


def test_another_collection_is_encoded_from_its_photos(world: World, tmp_path: Path, call: Call) -> None:
    other = write_collection(tmp_path / "other", paint(tmp_path / "others", 30))
    code, out, _ = call(
        "evaluate", world.run, "--collection", other.folder, "--out", tmp_path / "r", "--json"
    )
    assert code == 0
    assert json.loads(out)["counts"]["images"] == 5
    # With features of its own by the same network, those may be named.
    settings = backbone(world.folder / "test_byobnet.safetensors", layer=2)
    extract_images(other, tmp_path / "features", ImageBackbone(settings), dtype="float32", progress=False)
    place = ["--collection", other.folder, "--image-features", tmp_path / "features", "--out", tmp_path / "s"]
    code, again, _ = call("evaluate", world.run, *place, "--json")
    assert code == 0
    assert json.loads(again)["metrics"] == json.loads(out)["metrics"]


def test_results_of_other_data_and_inputs_have_names_of_their_own(
    world: World, tmp_path: Path, call: Call
) -> None:
    run, own = tmp_path / "run", world.collection.folder
    shutil.copytree(world.run, run, ignore=shutil.ignore_patterns("results"))
    other = write_collection(tmp_path / "other", paint(tmp_path / "others", 30)).folder
    shutil.copytree(own / "features" / "test_byobnet", tmp_path / "copied")
    shutil.copytree(own, tmp_path / "moved")
    cases: dict[str, list[object]] = {
        "test": [],
        "val": ["--split", "val"],
        "test-2-folds": ["--folds", 2],
        "test-raw": ["--raw"],
        "test-with-copied": ["--image-features", tmp_path / "copied"],
        "test-on-other-raw": ["--collection", other],
        "test-on-moved": ["--collection", tmp_path / "moved"],
        "test-on-moved-raw": ["--collection", tmp_path / "moved", "--raw"],
        "test-5-folds-on-other-raw": ["--collection", other, "--folds", 5],
    }
    saved = {}
    for name, arguments in cases.items():
        code, out, err = call("evaluate", run, *arguments)
        assert (code, out.splitlines()[-1]) == (0, f"saved: {run / 'results' / name}"), err
        saved[name] = (run / "results" / name / "results.json").read_bytes()
    for same in (
        ["--collection", own],
        ["--image-features", "test_byobnet"],
        ["--image-features", own / "features" / "test_byobnet", "--collection", f"{own}/../{own.name}"],
    ):
        assert f"saved: {run / 'results' / 'test'}\n" in call("evaluate", run, *same)[1]
    assert {path.name for path in (run / "results").iterdir()} == set(cases)
    for name in cases.keys() - {"test"}:
        assert (run / "results" / name / "results.json").read_bytes() == saved[name]


def test_a_moved_collection_keeps_its_stores_and_says_so(world: World, tmp_path: Path, call: Call) -> None:
    shutil.copytree(world.collection.folder, tmp_path / "moved")
    _, stored, _ = call("evaluate", world.run, "--json", "--out", tmp_path / "a")
    moved = ["--collection", tmp_path / "moved", "--json", "--out", tmp_path / "b"]
    code, again, err = call("evaluate", world.run, *moved)
    assert code == 0
    assert json.loads(again)["metrics"] == json.loads(stored)["metrics"]
    told = f"{tmp_path / 'moved'}: images from the stored features test_byobnet, captions from their words"
    assert told in err.splitlines()
    code, _, err = call("evaluate", world.run, *moved, "--raw")
    assert code == 0
    told = f"{tmp_path / 'moved'}: images from the photos, captions from their words"
    assert told in err.splitlines()
    # Those it has are the model's own, or it says so.
    shutil.rmtree(tmp_path / "moved" / "features" / "test_byobnet")
    (tmp_path / "moved" / "features" / "test_resnet").rename(tmp_path / "moved" / "features" / "test_byobnet")
    code, _, err = call("evaluate", world.run, *moved)
    assert code == 1
    assert "given are test_resnet" in one_line(err)


def test_a_recipe_may_name_its_stores_by_path(world: World, tmp_path: Path, call: Call) -> None:
    run = tmp_path / "run"
    shutil.copytree(world.run, run, ignore=shutil.ignore_patterns("results"))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["image_features"] = [str(world.collection.folder / "features" / "test_byobnet")]
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert f"saved: {run / 'results' / 'test'}\n" in call("evaluate", run)[1]
    other = write_collection(tmp_path / "other", paint(tmp_path / "others", 30)).folder
    code, out, err = call("evaluate", run, "--collection", other)
    assert (code, out.splitlines()[-1]) == (0, f"saved: {run / 'results' / 'test-on-other-raw'}"), err
    (other / "features").mkdir()
    settings = backbone(world.folder / "test_byobnet.safetensors", layer=2)
    store = other / "features" / "test_byobnet"
    extract_images(Collection.load(other), store, ImageBackbone(settings), dtype="float32", progress=False)
    assert f"saved: {run / 'results' / 'test-on-other'}\n" in call("evaluate", run, "--collection", other)[1]


def test_word_accuracy_of_an_earlier_evaluation_does_not_stay(
    world: World, tmp_path: Path, call: Call
) -> None:
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "grounding.json").write_text("{}")
    assert call("evaluate", world.run, "--out", tmp_path / "result")[0] == 0
    assert {path.name for path in (tmp_path / "result").iterdir()} == {"results.json", "ranks.npz"}


def test_a_model_folder_needs_to_be_told_the_collection(world: World, tmp_path: Path, call: Call) -> None:
    shutil.copytree(world.run / "model", tmp_path / "model")
    code, out, err = call("evaluate", tmp_path / "model")
    assert (code, out) == (1, "")
    assert "not a training run, so it names no collection; give --collection" in one_line(err)
    code, out, _ = call("evaluate", tmp_path / "model", "--collection", world.collection.folder, "--json")
    assert code == 0
    assert json.loads(out)["model"] == RetrievalModel.from_pretrained(world.run).fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing is saved where no place is named"
    assert not (tmp_path / "model" / "results").exists()


def test_folds_are_galleries_of_their_own(world: World, call: Call) -> None:
    code, out, _ = call("evaluate", world.run, "--folds", 2, "--json")
    assert code == 0
    assert json.loads(out)["protocol"]["folds"] == 2
    folded = RetrievalResult.load(world.run / "results" / "test-2-folds")
    assert call("evaluate", world.run)[0] == 0
    whole = RetrievalResult.load(world.run / "results" / "test")
    # Smaller galleries can only be easier.
    assert (folded.table.t2i <= whole.table.t2i).all()


def test_folds_that_do_not_divide_are_told_before_anything_is_encoded(
    world: World, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_model, "encode_gallery", lambda *_, **__: pytest.fail("was encoded"))
    code, _, err = call("evaluate", world.run, "--folds", 3)
    assert code == 1
    assert "do not divide into 3 folds" in one_line(err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none: no such model folder"),
        (["RUN", "--split", "trian"], "no split 'trian'; it has train, val, test"),
        (["RUN", "--image-features", "none"], "no FeatureStore 'none'"),
        (
            ["RUN", "--image-features", "test_resnet"],
            "the model takes those of test_byobnet, made with the same settings; given are test_resnet",
        ),
        (
            ["RUN", "--image-features", "test_byobnet", "--image-features", "test_resnet"],
            "given are test_byobnet, test_resnet",
        ),
        (["RUN", "--text-features", "test_byobnet"], "holds image features; text_features needs text"),
        (["RUN", "--collection", "none"], "none: not a collection"),
        (["RUN", "--raw", "--image-features", "test_byobnet"], "--raw reads no stores, and --image-features"),
        (
            ["RUN", "--raw", "--text-features", "words"],
            "--raw reads no stores, and --text-features names one",
        ),
        (["RUN", "--device", "abacus"], "--device abacus: no device that can be used here"),
        (["RUN", "--device", "cuda"], "--device cuda: PyTorch finds no CUDA device here"),
    ],
)
def test_what_cannot_be_evaluated_ends_with_one_line(
    world: World,
    tmp_path: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    monkeypatch.chdir(tmp_path)
    named = [world.run if argument == "RUN" else argument for argument in arguments]
    code, out, err = call("evaluate", *named, "--out", tmp_path / "result")
    assert (code, out) == (1, "")
    assert message in one_line(err)
    assert not (tmp_path / "result").exists()


def test_features_of_the_same_network_with_other_weights_are_refused(
    world: World, tmp_path: Path, call: Call
) -> None:
    settings = backbone(write_weights(tmp_path / "other.safetensors", seed=1), layer=2)
    store = tmp_path / "store"
    extract_images(world.collection, store, ImageBackbone(settings), dtype="float32", progress=False)
    code, _, err = call("evaluate", world.run, "--image-features", store)
    assert code == 1
    assert "made with the same settings" in one_line(err)


# ---- compare


def test_two_seeds_are_compared(world: World, tmp_path: Path, call: Call) -> None:
    assert call("train", world.recipe, "--out", tmp_path / "other", "--seed", 8)[0] == 0
    places = []
    for run in (world.run, tmp_path / "other"):
        assert call("evaluate", run, "--out", tmp_path / f"result-{run.name}")[0] == 0
        places.append(tmp_path / f"result-{run.name}")
    code, out, err = call("compare", *places, "--resamples", 200, "--json")
    assert (code, err) == (0, "")
    last = json.loads(out)["differences"][-1]
    one, two = (RetrievalResult.load(place).metrics["rsum"] for place in places)
    assert last["difference"] == pytest.approx(two - one)
    assert 0 < last["p_value"] <= 1
    assert call("evaluate", world.run, "--split", "val")[0] == 0
    code, _, err = call("compare", places[0], world.run / "results" / "val")
    assert code == 1
    assert "split" in one_line(err)
