"""Runs that another study has made already are not made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_study import Place, go

from crossalign.errors import CrossAlignError
from crossalign.study.plan import plan_runs
from crossalign.study.records import read_records
from crossalign.study.settings import load_study
from crossalign.study.take_over import take_over


def test_the_same_recipe_is_taken_with_its_ranks_and_another_is_not(copy: Place, tmp_path: Path) -> None:
    made = read_records(copy.out)
    study = load_study(copy.file)
    twin = study.model_copy(update={"name": "twin"})
    planned = plan_runs(twin, [0, 7], [])
    out = tmp_path / "twin"
    found = take_over(planned, "twin", out, [copy.out])
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
    assert take_over(planned, "twin", out, [copy.out]) == {}
    # A copy of a copy still names the run itself.
    take_over(plan_runs(study, [0], []), "third", tmp_path / "third", [out])
    again = json.loads((tmp_path / "third" / "records" / "base-seed0.json").read_text())
    assert again["taken_from"] == f"{study.name}: base-seed0"

    changed = plan_runs(twin, [0], ["optimizer.learning_rate=0.123"])
    assert take_over(changed, "twin", tmp_path / "other", [copy.out]) == {}
    tally = go(Place(copy.folder))
    assert tally.kept


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match="holds no records of a study"):
        take_over([], "s", tmp_path, [tmp_path / "nothing"])
