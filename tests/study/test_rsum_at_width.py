"""R@sum of cut embeddings in records and tables: the same as evaluating at that width, and never in the way."""

from __future__ import annotations

import json

import pytest
from tiny_study import Place, go

from crossalign.evaluation.of_run import evaluate_run
from crossalign.study import load_study, plan_runs
from crossalign.study.records import read_record
from crossalign.study.summary import summarize
from crossalign.study.table import markdown_table

ASKED = ["embedding_width", "rsum_at_1/2", "rsum_at_1/8"]


def test_a_record_has_what_evaluate_measures_at_that_width(finished: Place) -> None:
    for key in ("base-seed0", "+lca-seed1"):
        outcome = read_record(finished.out / "records" / f"{key}.json").outcome
        assert outcome is not None
        # Enriched embeddings of 3 x 16 numbers.
        assert outcome.rsum_at_width == {
            name: evaluate_run(finished.runs / key, width=width).result.metrics["rsum"]
            for name, width in (("1/2", 24), ("1/4", 12), ("1/8", 6))
        }
        assert len(set(outcome.rsum_at_width.values())) > 1
        assert (outcome.number("rsum_at_1/4"), outcome.number("rsum_at_1/3")) == (
            outcome.rsum_at_width["1/4"],
            None,
        )
        assert (outcome.number("embedding_width"), outcome.number("hinge")) == (48, outcome.last["hinge"])


def test_the_summary_and_the_table_show_it_where_it_is_asked_for(copy: Place) -> None:
    assert (
        summarize(load_study(copy.file), copy.out, [0, 1], resamples=50)["variants"]["base"]["numbers"] == {}
    )
    copy.write(numbers=ASKED)
    summary = summarize(load_study(copy.file), copy.out, [0, 1], resamples=50)
    numbers = summary["variants"]["base"]["numbers"]
    assert list(numbers) == ASKED
    outcomes = [read_record(copy.out / "records" / f"base-seed{seed}.json").outcome for seed in (0, 1)]
    values = [outcome.rsum_at_width["1/8"] for outcome in outcomes if outcome and outcome.rsum_at_width]
    assert numbers["rsum_at_1/8"]["values"] == values
    heading, _, base, _ = markdown_table(summary)
    assert "| embedding width | rsum at 1/2 | rsum at 1/8 |" in heading
    assert "| 48 ± 0 |" in base


def test_records_from_before_still_count_and_have_no_such_number(copy: Place) -> None:
    for path in (copy.out / "records").glob("base-*.json"):
        content = json.loads(path.read_text())
        del content["outcome"]["rsum_at_width"]
        path.write_text(json.dumps(content))
    copy.write(numbers=ASKED)
    assert go(copy).done == []
    summary = summarize(load_study(copy.file), copy.out, [0, 1], resamples=50)
    base, other = (summary["variants"][name] for name in ("base", "+lca"))
    assert base["runs"]["done"] == [0, 1]
    assert (list(base["numbers"]), list(other["numbers"])) == (["embedding_width"], ASKED)
    assert "differences" in other["against"][0]
    assert "| 48 ± 0 | – | – |" in markdown_table(summary)[2]


def test_a_scorer_has_none(place: Place) -> None:
    scorer = ["objective.cra=null", "model.context_head=false", "model.scorer={kind: sgr, similarity_dim: 8}"]
    place.write(
        seeds=[0],
        set={"training.epochs": 1},
        numbers=ASKED,
        variants={"base": {"recipe": "toy.yaml", "set": scorer}},
    )
    assert go(place, seeds=(0,)).done == ["base-seed0"]
    outcome = read_record(place.out / "records" / "base-seed0.json").outcome
    assert outcome is not None
    assert outcome.rsum_at_width is None
    assert outcome.number("rsum_at_1/2") is None


@pytest.mark.parametrize(
    ("study", "widths"),
    [
        ("embedding-size", {"enriched": 768, "projected": 256, "without": 256}),
        (
            "matryoshka",
            {"base": 256, "matryoshka": 256, "width-128": 128, "width-64": 64, "width-32": 32}
            | {"enriched": 768, "enriched-matryoshka": 768},
        ),
    ],
)
def test_the_studies_of_the_package_compare_these_widths(study: str, widths: dict[str, int]) -> None:
    planned = plan_runs(load_study(study), [0])
    assert {run.variant: run.recipe.model.embedding_width for run in planned} == widths
    trained = {run.variant for run in planned if run.recipe.objective.matryoshka is not None}
    assert trained == {name for name in widths if "matryoshka" in name}
