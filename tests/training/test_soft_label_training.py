"""Training with soft labels: the terms fall, a resumed run is the whole one, what is missing is told at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from crossalign.errors import CrossAlignError
from crossalign.evaluation.of_run import evaluate_run
from crossalign.model import RetrievalModel
from crossalign.recipe import load_recipe
from crossalign.training import trainer
from crossalign.training.checkpoint import load_checkpoint
from crossalign.training.metrics import read_metrics
from crossalign.training.trainer import train
from interrupted_training import interrupted
from toy_collection import write_teachers

SOFT = [
    "data.teachers={images: teacher-images, texts: teacher-texts}",
    "model.uni_modal_head={size: 10}",
    "objective.csa={weight: 1.0}",
    "objective.usa={weight: 1.0}",
]
STILL = ["model.image.region_dropout=0", "model.text.word_dropout=0", "model.text.word_masking=0"]


@pytest.fixture
def taught(toy: Path) -> Path:
    write_teachers(toy.with_suffix(""))
    return toy


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["model.context_head=false", "objective.lca=null", "objective.cra=null"],
        [
            "model.image.encoder={kind: camera, heads: 2, views: 3, channels: 4, positions: false}",
            "objective.csa={mode: dot}",
        ],
        [
            "model.scorer={kind: sgr, similarity_dim: 8, regions: 5, dropout: 0}",
            "model.context_head=false",
            "objective.lca=null",
            "objective.cra=null",
            "objective.csa={mode: add, teacher_temperature: 0.2, temperature: 0.1, weight: 10}",
            "optimizer.learning_rate=1e-2",
            "objective.base={kind: hinge, summed_epochs: 20}",
            "training.epochs=40",
        ],
    ],
    ids=["selfalign", "alone", "camera", "scorer"],
)
def test_both_terms_fall(taught: Path, tmp_path: Path, more: list[str]) -> None:
    recipe = load_recipe(taught, [*SOFT, *STILL, "training.epochs=12", *more])
    train(recipe, tmp_path / "run", progress=False)
    events = [e for e in read_metrics(tmp_path / "run" / "metrics.jsonl") if e["kind"] == "train"]
    for name in ("csa", "usa"):
        first, last = (sum(event[name] for event in part) / len(part) for part in (events[:5], events[-5:]))
        assert last < 0.9 * first, name
    assert events[-1]["usa_image_temperature"] != events[0]["usa_image_temperature"]
    model = RetrievalModel.from_pretrained(tmp_path / "run")
    assert model.encode_texts(["red round"], space="uni").shape == (1, 10)
    # Evaluation needs no teacher.
    assert evaluate_run(tmp_path / "run", split="test").result.metrics["rsum"] > 0


def test_an_interrupted_run_ends_with_the_same_weights(taught: Path, tmp_path: Path) -> None:
    recipe = load_recipe(taught, SOFT)
    train(recipe, tmp_path / "whole", progress=False)
    with interrupted(16, "check_finite"):
        train(recipe, tmp_path / "part", progress=False)
    train(recipe, tmp_path / "part", resume="auto", progress=False)
    whole, part = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")["weights"]
        for name in ("whole", "part")
    )
    assert {"objective.csa.temperature", "objective.usa.text_temperature"} <= whole.keys()
    assert all(torch.equal(whole[name], part[name]) for name in whole)


def test_workers_and_autocast_change_nothing_that_matters(taught: Path, tmp_path: Path) -> None:
    for name, more in (("plain", []), ("workers", ["data.workers=1"])):
        train(load_recipe(taught, [*SOFT, *more, "training.epochs=1"]), tmp_path / name, progress=False)
    plain, workers = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("plain", "workers"))
    assert plain == workers
    half = load_recipe(taught, [*SOFT, "training.precision=bf16", "training.epochs=1"])
    train(half, tmp_path / "half", progress=False)
    for one, other in zip(plain, read_metrics(tmp_path / "half" / "metrics.jsonl"), strict=True):
        if one["kind"] == "train" and one["step"] == 1:
            assert other["csa"] == pytest.approx(one["csa"], rel=0.05)
            assert other["usa"] == pytest.approx(one["usa"], rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (SOFT[:1], "data.teachers: no loss asks them; add objective.csa or objective.usa, or leave"),
        (SOFT[1:2], "model.uni_modal_head: no loss trains it; add objective.usa, or leave"),
        ([SOFT[0], SOFT[1], SOFT[2]], "model.uni_modal_head: no loss trains it"),
    ],
    ids=["teachers", "heads", "heads beside csa"],
)
def test_what_no_loss_would_read_is_refused_where_a_run_begins(
    taught: Path, tmp_path: Path, changes: list[str], message: str
) -> None:
    recipe = load_recipe(taught, changes)
    with pytest.raises(CrossAlignError) as caught:
        train(recipe, tmp_path / "run", progress=False)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_run_of_before_with_idle_heads_and_teachers_opens_and_goes_on(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(taught, [*SOFT[:2], "training.epochs=2"])
    with monkeypatch.context() as older, interrupted(2):
        older.setattr(trainer, "refuse_idle_settings", lambda _: None)
        train(recipe, tmp_path / "run", progress=False)
    # Stores that no term asks for are not read either.
    shutil.rmtree(taught.with_suffix("") / "features" / "teacher-images")
    assert train(recipe, tmp_path / "run", resume="auto", progress=False).epochs == 2
    assert train(recipe, tmp_path / "run", resume="auto", progress=False).epochs == 2, "finished"
    assert evaluate_run(tmp_path / "run", split="test").result.metrics["rsum"] > 0
    model = RetrievalModel.from_pretrained(tmp_path / "run")
    assert model.encode_texts(["red round"], space="uni").shape == (1, 10)


def test_what_is_missing_is_told_before_anything_is_written(toy: Path, tmp_path: Path) -> None:
    for name in ("csa", "usa"):
        with pytest.raises(
            CrossAlignError, match=rf"objective\.{name} needs teachers.*'crossalign teach .*/toy "
        ):
            load_recipe(toy, [f"objective.{name}={{}}"])
    with pytest.raises(
        CrossAlignError, match=r"run: crossalign teach .*/toy --images MODEL --out .*teacher-images$"
    ):
        train(load_recipe(toy, SOFT), tmp_path / "run", progress=False)
    with pytest.raises(CrossAlignError, match=r"objective\.usa needs uni-modal heads"):
        train(load_recipe(toy, [*SOFT, "model.uni_modal_head=null"]), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
