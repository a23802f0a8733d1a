"""The summary: means and spreads worked out otherwise, comparisons as of the runs themselves, nothing hidden."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_study import STUDY, Place, go

from crossalign.evaluation import RetrievalResult, compare_groups
from crossalign.study import StudySettings, load_study
from crossalign.study.records import read_record
from crossalign.study.report import write_report
from crossalign.study.summary import summarize


def summary_of(place: Place, seeds: tuple[int, ...] = (0, 1), **changes: Any) -> dict[str, Any]:
    return summarize(load_study(place.file), place.out, seeds, resamples=300, **changes)


def results(place: Place, variant: str, seeds: tuple[int, ...] = (0, 1)) -> list[RetrievalResult]:
    return [RetrievalResult.load(place.runs / f"{variant}-seed{seed}" / "results" / "test") for seed in seeds]


def test_means_and_spreads_over_seeds(finished: Place) -> None:
    row = summary_of(finished)["variants"]["+lca"]
    assert row["runs"] == {"done": [0, 1], "missing": [], "failed": {}, "differing": {}}
    values = [result.metrics["rsum"] for result in results(finished, "+lca")]
    assert row["test"]["rsum"] == {
        "mean": pytest.approx(np.mean(values)), "sd": pytest.approx(np.std(values, ddof=1)), "values": values,
    }  # fmt: skip
    trainings = [
        json.loads((finished.runs / f"+lca-seed{seed}" / "training.json").read_text()) for seed in (0, 1)
    ]
    assert row["validation_rsum"]["values"] == [training["best_rsum"] for training in trainings]
    minutes = [training["seconds"] / 60 for training in trainings]
    assert row["training_minutes"]["mean"] == pytest.approx(np.mean(minutes), abs=0.001)
    assert row["embedding_width"] == 48


def test_differences_are_those_of_the_compared_runs(finished: Place) -> None:
    variants = summary_of(finished)["variants"]
    assert variants["base"]["against"] == []
    (against,) = variants["+lca"]["against"]
    expected = compare_groups(results(finished, "base"), results(finished, "+lca"), resamples=300)
    assert (against["variant"], against["seeds"]) == ("base", [0, 1])
    for entry in expected.differences:
        assert against["differences"][entry.metric] == {
            "difference": entry.difference, "low": entry.low, "high": entry.high, "p_value": entry.p_value,
        }  # fmt: skip
    pairs = zip(results(finished, "base"), results(finished, "+lca"), strict=True)
    assert against["rsum_by_seed"] == [two.metrics["rsum"] - one.metrics["rsum"] for one, two in pairs]


def test_records_alone_give_the_same_summary(finished: Place, copy: Place) -> None:
    shutil.rmtree(copy.runs)
    shutil.rmtree(copy.out)
    shutil.copytree(finished.out / "records", copy.out / "records")
    assert summary_of(copy) == summary_of(finished)
    assert json.loads(json.dumps(summary_of(copy))) == summary_of(copy)


def test_a_missing_run_is_told_and_only_common_seeds_are_compared(copy: Place) -> None:
    (copy.out / "records" / "base-seed1.json").unlink()
    variants = summary_of(copy)["variants"]
    assert variants["base"]["runs"] == {"done": [0], "missing": [1], "failed": {}, "differing": {}}
    assert variants["base"]["test"]["rsum"]["sd"] is None
    assert variants["+lca"]["against"][0]["seeds"] == [0]
    expected = compare_groups(
        results(copy, "base", (0,)), results(copy, "+lca", (0,)), resamples=300
    ).differences[-1]
    assert variants["+lca"]["against"][0]["differences"]["rsum"]["p_value"] == expected.p_value
    (copy.out / "records" / "base-seed0.json").unlink()
    variants = summary_of(copy)["variants"]
    assert "test" not in variants["base"]
    assert variants["+lca"]["against"][0]["reason"] == "no seed that both have yet"
    assert variants["+lca"]["test"]["rsum"]["mean"] > 0


def test_seeds_found_count_beside_those_asked_for(finished: Place) -> None:
    summary = summary_of(finished, seeds=(1, 5))
    assert summary["seeds"] == [0, 1, 5]
    assert summary["variants"]["base"]["runs"]["missing"] == [5]


def test_without_ranks_the_table_stays_and_the_comparison_says_why(copy: Place) -> None:
    (copy.out / "records" / "base-seed1.ranks.npz").unlink()
    variants = summary_of(copy)["variants"]
    assert variants["base"]["test"] == summary_of(copy)["variants"]["base"]["test"]
    assert len(variants["base"]["test"]["rsum"]["values"]) == 2
    reason = variants["+lca"]["against"][0]["reason"]
    assert reason.startswith("records/base-seed1.ranks.npz: no such file")
    damaged = copy.out / "records" / "base-seed0.ranks.npz"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    assert "base-seed0.ranks.npz: damaged" in summary_of(copy)["variants"]["+lca"]["against"][0]["reason"]


def test_records_with_other_settings_are_left_out_by_name(copy: Place) -> None:
    summary = summary_of(copy, overrides=["training.epochs=3"])
    for row in summary["variants"].values():
        assert row["runs"]["done"] == []
        assert row["runs"]["differing"] == {"0": ["training.epochs"], "1": ["training.epochs"]}
        assert "test" not in row
    assert summary["overrides"] == ["training.epochs=3"]


def test_runs_on_another_test_split_are_not_compared(copy: Place) -> None:
    path = copy.out / "records" / "base-seed0.json"
    content = json.loads(path.read_text())
    content["outcome"]["result"]["digests"]["captions"] = "0" * 64
    path.write_text(json.dumps(content))
    assert "digest of the caption ids" in summary_of(copy)["variants"]["+lca"]["against"][0]["reason"]


def test_failures_and_foreign_records_are_told(place: Place) -> None:
    broken = {"recipe": "toy.yaml", "set": {"data.image_features": ["none"]}}
    place.write(variants={**STUDY["variants"], "broken": broken})
    go(place, seeds=(0,))
    summary = summary_of(place, (0,))
    assert "no FeatureStore 'none'" in summary["variants"]["broken"]["runs"]["failed"]["0"]
    assert summary["variants"]["broken"]["against"][0]["reason"] == "no seed that both have yet"
    place.write()
    summary = summary_of(place, (0,))
    assert (list(summary["variants"]), summary["unknown_records"]) == (["base", "+lca"], ["broken"])


def test_further_numbers_are_those_of_the_log(copy: Place) -> None:
    copy.write(numbers=["lca", "cra_top1", "nothing"])
    variants = summary_of(copy)["variants"]
    logs = [
        [json.loads(line) for line in (copy.runs / f"+lca-seed{seed}" / "metrics.jsonl").open()]
        for seed in (0, 1)
    ]
    last = [[event for event in log if event["kind"] == "train"][-1]["lca"] for log in logs]
    assert variants["+lca"]["numbers"].keys() == {"lca"}
    assert variants["+lca"]["numbers"]["lca"]["values"] == pytest.approx(last, rel=1e-5)
    assert variants["base"]["numbers"] == {}


@pytest.mark.parametrize(
    ("rsums", "expected"), [([240.0, 250.0, 243.0, 242.5], 7.0), ([1.0, 2.0, 3.0], 0.0), ([5.0], None)]
)
def test_the_largest_fall_is_from_one_epoch_to_the_next(
    finished: Place, rsums: list[float], expected: float | None
) -> None:
    outcome = read_record(finished.out / "records" / "base-seed0.json").outcome
    assert outcome is not None
    log = [{"rsum": rsum, "i2t_r1": 1.0} for rsum in rsums]
    assert outcome.model_copy(update={"validation": log}).number("largest_fall") == expected


def test_the_report_is_three_files_and_names_no_place(copy: Place) -> None:
    study: StudySettings = copy.write(
        collection=str(copy.folder / "toy"),
        variants={
            name: {**variant, "recipe": str(copy.folder / "toy.yaml")}
            for name, variant in STUDY["variants"].items()
        },
    )
    (copy.out / "records" / "+lca-seed1.ranks.npz").unlink()
    write_report(study, copy.out, [0, 1], [f"data.collection={copy.folder / 'toy'}"])
    assert {path.name for path in copy.out.iterdir()} == {
        "records", "study.json", "table.md", "study.png", ".lock"
    }  # fmt: skip
    for name in ("study.json", "table.md"):
        assert str(copy.folder.parent) not in (copy.out / name).read_text()
    assert (copy.out / "study.png").read_bytes().startswith(b"\x89PNG")


def test_the_origin_names_every_machine_and_commit_once(copy: Place) -> None:
    path = copy.out / "records" / "base-seed0.json"
    content = json.loads(path.read_text())
    content["origin"]["machine"] |= {"cores": 64, "load": 3.0}
    content["origin"]["commit"] = "f" * 40
    path.write_text(json.dumps(content))
    origin = summary_of(copy)["origin"]
    assert [machine["cores"] == 64 for machine in origin["machines"]].count(True) == 1
    assert len(origin["machines"]) == 2
    assert "f" * 40 in origin["commits"]
    assert all("load" not in machine for machine in origin["machines"])
    assert origin["first"] < origin["last"]


def test_word_to_region_is_averaged_where_it_is_known(copy: Place) -> None:
    for seed, accuracy in ((0, 40.0), (1, 50.0)):
        path: Path = copy.out / "records" / f"+lca-seed{seed}.json"
        content = json.loads(path.read_text())
        content["outcome"]["word_to_region"] = {"accuracy": accuracy, "chance": 12.5, "words": 100}
        path.write_text(json.dumps(content))
    variants = summary_of(copy)["variants"]
    assert variants["base"]["word_to_region"] is None
    found = variants["+lca"]["word_to_region"]
    assert (found["accuracy"]["mean"], found["chance"]["mean"]) == (45.0, 12.5)
    assert found["accuracy"]["sd"] == pytest.approx(np.sqrt(50))
