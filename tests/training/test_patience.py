"""Stopping early: after so many validations without a new best, and never later because of a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from crossalign.model import RetrievalModel
from crossalign.recipe import Recipe, load_recipe
from crossalign.training import parts, trainer
from crossalign.training.checkpoint import load_checkpoint
from crossalign.training.metrics import read_metrics
from crossalign.training.trainer import train


def recipe(toy: Path, *changes: str) -> Recipe:
    """Ten epochs whose validation scores are the ones of :func:`scores`."""
    return load_recipe(toy, ["training.epochs=10", "training.checkpoint_every=null", *changes])


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The validation scores to come, one an epoch."""
    to_come: list[float] = []
    monkeypatch.setattr(parts, "split_metrics", lambda *_: {"rsum": to_come.pop(0)})
    return to_come


def test_training_stops_after_so_many_validations_without_a_new_best(
    toy: Path, tmp_path: Path, scores: list[float]
) -> None:
    scores += [100.0, 90.0, 120.0, 120.0, 119.0, 200.0]
    result = train(recipe(toy, "training.patience=2"), tmp_path / "run", progress=False)
    assert (result.epochs, result.best_epoch, result.best_rsum) == (5, 3, 120.0)
    # The cosine still runs towards the ten epochs that were asked for.
    events = [event for event in read_metrics(tmp_path / "run" / "metrics.jsonl") if event["kind"] == "train"]
    assert events[-1]["rate"] > 0.3 * 0.005


def test_validations_are_counted_not_epochs(toy: Path, tmp_path: Path, scores: list[float]) -> None:
    scores += [100.0, 90.0, 80.0, 70.0]
    settings = recipe(toy, "training.patience=2", "training.validate_every=3")
    result = train(settings, tmp_path / "run", progress=False)
    assert (result.epochs, result.best_epoch) == (9, 3)


def test_the_model_kept_is_the_best_ones(toy: Path, tmp_path: Path, scores: list[float]) -> None:
    saved: list[dict[str, Any]] = []
    real = RetrievalModel.save_pretrained

    def keeping(model: Any, folder: Any) -> None:
        saved.append({name: value.clone() for name, value in model.state_dict().items()})
        real(model, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RetrievalModel, "save_pretrained", keeping)
        scores += [100.0, 150.0, 90.0, 80.0]
        train(recipe(toy, "training.patience=2"), tmp_path / "run", progress=False)
    assert len(saved) == 2
    kept = RetrievalModel.from_pretrained(tmp_path / "run").state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in saved[-1].items())
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["weights"]
    assert any(not torch.equal(value, last[f"model.{name}"]) for name, value in kept.items())


def test_a_kill_just_before_the_end_adds_no_epoch(
    toy: Path, tmp_path: Path, scores: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe(toy, "training.patience=2")
    scores += [100.0, 90.0, 80.0]
    with monkeypatch.context() as patch:

        def killed(path: Path, value: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(trainer, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "run", progress=False)
    before = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["weights"]
    assert not (tmp_path / "run" / "training.json").exists()
    result = train(settings, tmp_path / "run", resume="auto", progress=False)
    assert (result.epochs, result.best_epoch, result.best_rsum) == (3, 1, 100.0)
    after = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["weights"]
    assert all(torch.equal(before[name], after[name]) for name in before)
