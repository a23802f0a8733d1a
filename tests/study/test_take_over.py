"""Runs that another study has made already are not made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_study import Place, go

from crossalign.errors import CrossAlignError
from crossalign.lock import FileLock
from crossalign.study.outcome import origin
from crossalign.study.plan import plan_runs
from crossalign.study.records import read_records, write_record
from crossalign.study.settings import load_study
from crossalign.study.take_over import take_over


def test_the_same_recipe_is_taken_with_its_ranks_and_another_is_not(copy: Place, tmp_path: Path) -> None:
    made = read_records(copy.out)
    study = load_study(copy.file)
    twin = study.model_copy(update={"name": "twin"})
    planned = plan_runs(twin, [0, 7], [])
    out = tmp_path / "twin"
    found = take_over(planned, "twin", out, [copy.out], runs=tmp_path / "other-runs")
    # Seed 7 was never run.
    assert set(found) == {"base-seed0", "+lca-seed0"}
    taken = read_records(out)
    for key, record in taken.items():
        assert record.study == "twin"
        assert record.taken_from == f"{study.name}: {key[0]}-seed0"
        assert record.outcome == made[key].outcome
        assert record.origin == made[key].origin
        ranks = f"{key[0]}-seed0.ranks.npz"
        assert (out / "records" / ranks).read_bytes() == (copy.out / "records" / ranks).read_bytes()
    assert take_over(planned, "twin", out, [copy.out], runs=tmp_path / "other-runs") == {}
    # A copy of a copy still names the run itself.
    take_over(plan_runs(study, [0], []), "third", tmp_path / "third", [out], runs=tmp_path / "other-runs")
    again = json.loads((tmp_path / "third" / "records" / "base-seed0.json").read_text())
    assert again["taken_from"] == f"{study.name}: base-seed0"

    changed = plan_runs(twin, [0], ["optimizer.learning_rate=0.123"])
    assert take_over(changed, "twin", tmp_path / "other", [copy.out], runs=tmp_path / "other-runs") == {}
    tally = go(Place(copy.folder))
    assert tally.kept


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match="holds no records of a study"):
        take_over([], "s", tmp_path, [tmp_path / "nothing"], runs=tmp_path)


def test_the_record_of_a_failure_is_no_obstacle(copy: Place, tmp_path: Path) -> None:
    planned = plan_runs(load_study(copy.file), [0], [])
    out = tmp_path / "failed"
    for run in planned:
        write_record(out, run, "failed", origin(), "no such store")
    found = take_over(planned, "failed", out, [copy.out], runs=tmp_path / "other-runs")
    assert set(found) == {"base-seed0", "+lca-seed0"}
    assert [record.status for record in read_records(out).values()] == ["done", "done"]
    # One that ended well stays, also where it was made with other settings.
    before = {path: path.read_bytes() for path in (out / "records").iterdir()}
    changed = plan_runs(load_study(copy.file), [0], ["model.dim=8"])
    go(copy, "model.dim=8", seeds=(0,), retry=True)
    assert take_over(changed, "failed", out, [copy.out], runs=tmp_path / "other-runs") == {}
    assert {path: path.read_bytes() for path in (out / "records").iterdir()} == before


def test_a_run_in_other_hands_is_not_taken_over(copy: Place, tmp_path: Path) -> None:
    planned = plan_runs(load_study(copy.file), [0], [])
    out, runs = tmp_path / "busy", tmp_path / "other-runs"
    runs.mkdir()
    heard: list[str] = []
    with FileLock(runs / "base-seed0.lock", "crossalign study") as lock:
        assert lock.acquire()
        found = take_over(planned, "busy", out, [copy.out], runs=runs, tell=heard.append)
        assert set(found) == {"+lca-seed0"}
        assert len(heard) == 1
        assert heard[0].startswith("base-seed0: not taken over, in work by process ")
        # Whoever holds it may have finished it in the meantime: that record stays.
        run = next(run for run in planned if run.key == "base-seed0")
        mine = write_record(out, run, "busy", origin(), read_records(copy.out)["base", 0].outcome or "")
    assert take_over(planned, "busy", out, [copy.out], runs=runs) == {}
    assert read_records(out)["base", 0] == mine
    (out / "records" / "base-seed0.json").unlink()
    assert set(take_over(planned, "busy", out, [copy.out], runs=runs)) == {"base-seed0"}
