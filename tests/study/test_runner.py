"""The runner: it skips what is done, survives kills, shares the work, and lets one failure stop no other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_study import STUDY, Place, go

from crossalign.errors import CrossAlignError
from crossalign.evaluation import RetrievalResult
from crossalign.lock import FileLock
from crossalign.study import load_study, plan_runs
from crossalign.study import runner as runner_module
from crossalign.study.records import load_result, read_record, read_records
from crossalign.study.runner import StudyRunner

Heard = tuple[list[str], Callable[[str], None]]


def test_a_record_tells_what_the_run_folder_does(finished: Place) -> None:
    records = read_records(finished.out)
    assert set(records) == {("base", 0), ("+lca", 0), ("base", 1), ("+lca", 1)}
    record = records["+lca", 1]
    outcome = record.outcome
    assert outcome is not None
    run = finished.runs / "+lca-seed1"
    training = json.loads((run / "training.json").read_text())
    saved = RetrievalResult.load(run / "results" / "test")
    assert outcome.result["metrics"] == saved.metrics
    assert outcome.validation_rsum == training["best_rsum"]
    assert (outcome.best_epoch, outcome.epochs, outcome.steps) == (
        training["best_epoch"], training["epochs"], training["steps"],
    )  # fmt: skip
    assert outcome.validation[outcome.best_epoch - 1]["rsum"] == pytest.approx(
        training["best_rsum"], rel=1e-5
    )
    assert [entry["epoch"] for entry in outcome.validation] == [1, 2]
    assert (outcome.embedding_width, outcome.embedding_views) == (48, 1)
    assert 0 < outcome.trained_parameters == outcome.parameters
    assert outcome.word_to_region is None
    assert (record.recipe["seed"], record.recipe["name"]) == (1, "tiny-+lca")
    assert record.recipe["data"]["collection"] == "toy", "no place of this machine"
    assert str(finished.folder) not in (finished.out / "records" / "+lca-seed1.json").read_text()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert set(outcome.last) == set(trained[-1]) - {"kind", "step", "epoch"}
    assert outcome.last["lca"] == pytest.approx(trained[-1]["lca"], rel=1e-5)
    for epoch in (1, 2):
        values = [line["hinge"] for line in trained if line["epoch"] == epoch]
        assert outcome.by_epoch["hinge"][epoch - 1] == pytest.approx(sum(values) / len(values), rel=1e-5)


def test_the_ranks_beside_a_record_are_those_of_the_run_and_small(finished: Place) -> None:
    for run in plan_runs(load_study(finished.file), [0, 1]):
        path = finished.out / "records" / f"{run.key}.json"
        beside = load_result(finished.out, run, read_record(path))
        whole = RetrievalResult.load(finished.runs / run.key / "results" / "test")
        assert (beside.table.t2i == whole.table.t2i).all()
        assert beside.to_dict() == whole.to_dict()
        assert path.with_name(f"{run.key}.ranks.npz").stat().st_size < 1500


def test_what_is_done_is_only_read(finished: Place) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*") if path.is_file()}
    tally = go(finished)
    assert (tally.done, len(tally.kept)) == ([], 4)
    after = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*") if path.is_file()}
    assert after == before


def test_a_record_suffices_where_the_run_folder_is_gone(copy: Place) -> None:
    shutil.rmtree(copy.runs)
    assert len(go(copy).kept) == 4


@pytest.mark.long
def test_killed_again_and_again_it_ends_with_the_same_records(finished: Place, place: Place) -> None:
    waiting_for = [
        place.runs / "base-seed0" / "checkpoints" / "last.ckpt",
        place.out / "records" / "base-seed0.json",
        place.runs / "+lca-seed0" / "checkpoints" / "last.ckpt",
        place.runs / "base-seed1" / "model" / "config.json",
    ]
    kills = 0
    for awaited in waiting_for:
        process = place.start()
        while process.poll() is None and not awaited.exists():
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        assert awaited.exists()
    assert kills >= 3
    last = place.start()
    _, told = last.communicate()
    assert last.returncode == 0, told
    ours, theirs = read_records(place.out), read_records(finished.out)
    assert ours.keys() == theirs.keys()
    for key, record in ours.items():
        one, two = record.outcome, theirs[key].outcome
        assert one is not None
        assert two is not None
        assert one.result["metrics"] == two.result["metrics"]
        assert one.result["model"] == two.result["model"], "the same weights, bit for bit"
        assert (one.validation, one.last, one.by_epoch) == (two.validation, two.last, two.by_epoch)
    assert (place.out / "study.json").is_file()


def test_two_runners_side_by_side_do_every_run_once(place: Place) -> None:
    place.write(set={"training.epochs": 12})
    both = [place.start("--seeds", "0,1,2") for _ in range(2)]
    told = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    started = [[line.partition(":")[0] for line in text.splitlines() if ": run " in line] for text in told]
    every = [f"{variant}-seed{seed}" for seed in range(3) for variant in ("base", "+lca")]
    assert sorted(started[0] + started[1]) == sorted(every)
    assert started[0], "both had work"
    assert started[1], "both had work"
    assert len(read_records(place.out)) == 6
    summary = json.loads((place.out / "study.json").read_text())
    assert [row["runs"]["done"] for row in summary["variants"].values()] == [[0, 1, 2], [0, 1, 2]]


def test_a_run_in_other_hands_is_passed_by(place: Place, heard: Heard) -> None:
    place.runs.mkdir()
    with FileLock(place.runs / "base-seed0.lock", "crossalign study") as lock:
        assert lock.acquire()
        tally = go(place, seeds=(0,), tell=heard[1])
        assert tally.done == ["+lca-seed0"]
        assert list(tally.busy) == ["base-seed0"]
        assert f"in work by process {os.getpid()} (crossalign study) since" in heard[0][0]
    assert go(place, seeds=(0,)).done == ["base-seed0"]


def test_changed_settings_are_not_mixed_in(copy: Place, heard: Heard) -> None:
    record = copy.out / "records" / "base-seed0.json"
    before = record.read_bytes()
    tally = go(copy, "optimizer.learning_rate=0.02", "model.dim=24", seeds=(0,), tell=heard[1])
    assert (tally.done, tally.kept, tally.failed) == ([], [], {})
    assert set(tally.differing) == {"base-seed0", "+lca-seed0"}
    assert heard[0][0] == (
        f"{record}: made with other settings (model.dim, optimizer.learning_rate); repeat the --set of then, "
        "remove it, or choose another --out"
    )
    assert record.read_bytes() == before
    # What cannot change a result is no change; nor is the place of the collection.
    (copy.folder / "elsewhere").mkdir()
    shutil.move(copy.folder / "toy", copy.folder / "elsewhere" / "toy")
    moved = f"data.collection={copy.folder / 'elsewhere' / 'toy'}"
    assert len(go(copy, "training.log_every=7", "data.workers=1", moved).kept) == 4
    # Without its record, the run folder itself is in the way.
    record.unlink()
    tally = go(copy, "model.dim=24", seeds=(0,))
    assert tally.differing["base-seed0"].startswith(
        f"{copy.runs / 'base-seed0'}: made with other settings (model.dim)"
    )
    assert tally.differing["base-seed0"].endswith("choose another --runs")


def test_a_setting_that_came_later_keeps_older_records(copy: Place) -> None:
    path = copy.out / "records" / "base-seed0.json"
    content = json.loads(path.read_text())
    del content["recipe"]["optimizer"]["gamma"]
    path.write_text(json.dumps(content))
    assert len(go(copy).kept) == 4
    content["recipe"]["optimizer"]["once_known"] = 3
    path.write_text(json.dumps(content))
    assert "optimizer.once_known" in go(copy).differing["base-seed0"]


def test_a_failure_is_recorded_and_the_others_go_on(place: Place, heard: Heard) -> None:
    broken = {"recipe": "toy.yaml", "set": {"data.image_features": ["none"]}}
    place.write(
        variants={"base": STUDY["variants"]["base"], "broken": broken, "+lca": STUDY["variants"]["+lca"]}
    )
    tally = go(place, seeds=(0,), tell=heard[1])
    assert tally.done == ["base-seed0", "+lca-seed0"]
    assert list(tally.failed) == ["broken-seed0"]
    assert "no FeatureStore 'none'" in tally.failed["broken-seed0"]
    assert "broken-seed0: failed: no FeatureStore 'none'" in "\n".join(heard[0])
    record = read_record(place.out / "records" / "broken-seed0.json")
    assert (record.status, record.reason, record.outcome) == ("failed", tally.failed["broken-seed0"], None)
    # Not run again until asked to, and then as it is now.
    heard[0].clear()
    assert list(go(place, seeds=(0,), tell=heard[1]).failed) == ["broken-seed0"]
    assert heard[0] == []
    shutil.copytree(place.folder / "toy" / "features" / "toy", place.folder / "toy" / "features" / "none")
    assert go(place, seeds=(0,), retry=True).done == ["broken-seed0"]
    assert read_record(place.out / "records" / "broken-seed0.json").status == "done"


def test_a_failed_run_with_other_settings_is_simply_run(place: Place) -> None:
    place.write(variants={"base": {"recipe": "toy.yaml", "set": {"data.image_features": ["none"]}}})
    assert list(go(place, seeds=(0,)).failed) == ["base-seed0"]
    place.write(variants={"base": {"recipe": "toy.yaml"}})
    assert go(place, seeds=(0,)).done == ["base-seed0"]


def test_of_two_that_retry_only_one_does(place: Place) -> None:
    place.write(variants={"base": {"recipe": "toy.yaml", "set": {"data.image_features": ["none"]}}})
    go(place, seeds=(0,))
    study = load_study(place.file)
    first, second = (StudyRunner("tiny", place.out, place.runs, progress=False, retry=True) for _ in range(2))
    time.sleep(0.002)
    path, planned = place.out / "records" / "base-seed0.json", plan_runs(study, [0])
    before = path.read_bytes()
    assert list(first.run(planned).failed) == ["base-seed0"]
    once = path.read_bytes()
    assert once != before
    assert list(second.run(planned).failed) == ["base-seed0"]
    assert path.read_bytes() == once


def test_a_fault_of_the_code_is_one_line_and_its_traceback_is_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by\nnothing")

    monkeypatch.setattr(runner_module, "train", broken)
    tally = go(place, seeds=(0,))
    reason = tally.failed["base-seed0"]
    assert reason.startswith("unexpected ZeroDivisionError: by nothing (traceback: base-seed0-error.txt")
    assert "\n" not in reason
    assert "ZeroDivisionError" in (place.runs / "base-seed0-error.txt").read_text()
    assert list(tally.failed) == ["base-seed0", "+lca-seed0"]


def test_a_missing_test_split_is_found_before_training(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "SPLIT", "tset")
    monkeypatch.setattr(runner_module, "train", lambda *_, **__: pytest.fail("it has trained"))
    assert "no split 'tset'" in go(place, seeds=(0,)).failed["base-seed0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "not the record of a study's run; remove it to run again"),
        ({"format_version": 2}, "format_version"),
        ({"seed": 5}, "does not hold what its name says"),
        ({"outcome": None}, "does not hold what its name says"),
        ({"outcome": {"result": {}}}, "outcome.validation_rsum"),
    ],
)
def test_damaged_records_are_named(
    finished: Place, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "base-seed0.json"
    content = json.loads((finished.out / "records" / path.name).read_text())
    path.write_text(json.dumps(content | change))
    with pytest.raises(CrossAlignError) as caught:
        read_record(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
