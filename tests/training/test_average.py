"""The mean of weights: a plain loop says the same, its statistics are measured, and different models have none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from crossalign.cli.main import main
from crossalign.errors import CrossAlignError
from crossalign.evaluation.of_run import evaluate_run
from crossalign.model import RetrievalModel
from crossalign.recipe import load_recipe
from crossalign.scorers.normalisation import MaskedBatchNorm, TextBatchNorm
from crossalign.training.average import (
    average_models,
    average_run,
    chosen_epochs,
    measure_statistics,
    statistics,
)
from crossalign.training.metrics import read_metrics
from crossalign.training.state import kept_epochs, kept_place
from crossalign.training.trainer import train

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def trained(toy: Path, out: Path, *changes: str) -> Path:
    train(load_recipe(toy, ["training.keep_epochs=3", *changes]), out, progress=False)
    return out


def weights(place: Path) -> dict[str, Tensor]:
    return load_file(place / "model.safetensors")


def test_a_run_keeps_its_last_epochs_alone(toy: Path, tmp_path: Path) -> None:
    run = trained(toy, tmp_path / "run", "training.keep_epochs=2", "training.epochs=5")
    assert kept_epochs(run) == [4, 5]
    run = trained(toy, tmp_path / "some", "training.epochs=5", "training.validate_every=2")
    assert kept_epochs(run) == [2, 4, 5]
    assert kept_epochs(trained(toy, tmp_path / "none", "training.keep_epochs=null")) == []


def test_the_mean_is_that_of_a_plain_loop_and_is_used_like_a_run(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(toy, tmp_path / "run")
    main_ended(["average", str(run), "--last", "3", "--json"])
    told = json.loads(capsys.readouterr().out)
    out = tmp_path / "run-last-3"
    assert told["out"] == str(out)
    main_ended(["train", str(toy), "--out", str(out), "--resume", "auto"], 1)
    assert "holds an average of models and no run" in capsys.readouterr().err
    members = [weights(kept_place(run, epoch)) for epoch in (1, 2, 3)]
    mean = weights(out / "model")
    for name, value in mean.items():
        if name.endswith(STATISTICS):
            continue
        numbers = zip(*(member[name].flatten().tolist() for member in members), strict=True)
        expected = torch.tensor([sum(each) / 3 for each in numbers]).reshape(value.shape)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    model = RetrievalModel.from_pretrained(out)
    assert told["model"] == model.fingerprint
    measured = evaluate_run(out, split="val").result
    assert measured.metrics["rsum"] == pytest.approx(told["validation_rsum"])
    assert measured.trained_on == "toy"


def main_ended(arguments: list[str], code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code in ((code, None) if code == 0 else (code,))


def test_statistics_are_the_mean_over_batches_of_training_data(toy: Path, tmp_path: Path) -> None:
    run = trained(toy, tmp_path / "run", "training.epochs=2")
    result = average_run([run], tmp_path / "mean", count=2)
    model = RetrievalModel.from_pretrained(tmp_path / "mean")
    norms = statistics(model)
    assert len(norms) == 4
    assert result.statistics_from > 1
    # Hooks see what the norms see; each batch's mean counts the same.
    seen: dict[nn.Module, list[Tensor]] = {norm: [] for norm in norms}
    copied = average_models([kept_place(run, epoch) for epoch in (1, 2)])
    copies = dict(zip(statistics(copied), norms, strict=True))
    for norm, own in copies.items():
        norm.register_forward_pre_hook(
            lambda module, inputs, own=own: seen[own].append(inputs[0].mean(dim=0))
        )
    from crossalign.evaluation.run_sources import run_recipe, run_sources
    from crossalign.training.average import _training_batches

    recipe = run_recipe(run)
    assert recipe is not None
    count = measure_statistics(copied, _training_batches(copied, recipe, run_sources(run))[0])
    assert count == result.statistics_from
    for norm in norms:
        assert len(seen[norm]) == count
        torch.testing.assert_close(norm.running_mean, sum(seen[norm]) / count, rtol=1e-4, atol=1e-5)
    assert not copied.training
    assert not any(module.training for module in copied.modules())


def test_statistics_are_measured_on_the_batches_of_the_recipe(toy: Path, tmp_path: Path) -> None:
    from crossalign.data.loading import PairSampler
    from crossalign.evaluation.run_sources import run_recipe, run_sources
    from crossalign.training.average import _training_batches

    run = trained(
        toy, tmp_path / "run", "training.epochs=1", "data.epoch=images", "data.captions_per_image=2"
    )
    recipe = run_recipe(run)
    assert recipe is not None
    sources, model = run_sources(run), RetrievalModel.from_pretrained(run)
    split = sources.collection.split("train")
    drawn = iter(
        PairSampler(split, recipe.training.batch_size, recipe.seed, images_first=True, captions_per_image=2)
    )
    for batch in _training_batches(model, recipe, sources)[0]:
        assert batch.caption_ids == tuple(split.caption_ids[caption] for _, caption, _ in next(drawn))


@pytest.mark.parametrize("kind", [MaskedBatchNorm, TextBatchNorm])
def test_norms_of_scorers_are_measured_too(kind: type[nn.Module]) -> None:
    norm = MaskedBatchNorm(4) if kind is MaskedBatchNorm else TextBatchNorm()
    assert statistics(nn.Sequential(nn.Linear(2, 2), norm)) == [norm]
    assert norm.momentum is not None


def test_what_is_equal_in_all_stays_bit_for_bit(toy: Path, tmp_path: Path) -> None:
    run = trained(toy, tmp_path / "run", "training.epochs=1")
    same = average_models([kept_place(run, 1)] * 3)
    own = RetrievalModel.from_pretrained(kept_place(run, 1))
    assert same.fingerprint == own.fingerprint


def test_the_best_epochs_are_those_of_validation(toy: Path, tmp_path: Path) -> None:
    run = trained(toy, tmp_path / "run", "training.epochs=4", "training.keep_epochs=4")
    path = run / "metrics.jsonl"
    scores = iter([3.0, 9.0, 5.0, 4.0])
    lines = []
    for event in read_metrics(path):
        if event["kind"] == "validation":
            event["rsum"] = next(scores)
        lines.append(json.dumps(event))
    path.write_text("\n".join(lines))
    assert chosen_epochs(run, 2, "best") == [2, 3]
    assert chosen_epochs(run, 2, "last") == [3, 4]


def test_models_that_differ_are_refused(toy: Path, tmp_path: Path) -> None:
    run = trained(toy, tmp_path / "run", "training.epochs=1")
    for name, change in (
        ("wide", "model.dim=8"),
        ("deep", "model.image.encoder={kind: vsrn, layers: 1}"),
        ("words", "model.text.encoder.min_count=99"),
    ):
        other = trained(toy, tmp_path / name, "training.epochs=1", change)
        with pytest.raises(CrossAlignError, match=r"differ in model|different vocabularies") as caught:
            average_run([run, other], tmp_path / "mean")
        assert "crossalign ensemble" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "mean").exists()


def test_wrong_calls_are_told_in_one_line(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(trained(toy, tmp_path / "run", "training.epochs=2", "training.keep_epochs=2"))
    out = ["--out", str(tmp_path / "mean")]
    for arguments, told in (
        ([run], "one model has no mean"),
        ([str(tmp_path / "nothing"), "--last", "2"], "nothing: no such run folder"),
        ([run, "--last", "3"], "has kept the models of 2 epochs, asked for are 3"),
        ([run, "--last", "1"], "needs two epochs or more"),
        ([run, "--last", "2", "--best", "2"], "choose one"),
        ([run, run, "--last", "2", *out], "takes the epochs of one run"),
        ([run, run], "say where their mean goes"),
        ([run, run, "--out", run], "already exists"),
        ([f"{run}/model", f"{run}/model", *out], "have to be measured again on training data"),
        ([run, str(tmp_path / "nothing"), *out], "no such model folder"),
    ):
        main_ended(["average", *arguments], 1)
        message = capsys.readouterr().err.strip()
        assert told in message
        assert "\n" not in message
