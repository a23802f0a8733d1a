"""Train and evaluate recipes over seeds by the documented commands, and compare them: recall, spread, significance.

What is done already is skipped and what was interrupted goes on, so a table can grow over days:

    python benchmarks/training_runs.py flickr8k --recipe flickr8k-vse --recipe flickr8k-vse-selfalign --seed 0 --seed 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from _common import write_result
from crossalign.evaluation import RetrievalResult, compare_groups
from crossalign.training.metrics import read_metrics

RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum")


def run(recipe: str, seed: int, place: Path, settings: list[str]) -> Path:
    """Train and evaluate one seed of one recipe."""
    folder = place / f"{recipe}-seed{seed}"
    if not (folder / "results" / "test" / "results.json").is_file():
        crossalign = str(Path(sys.executable).with_name("crossalign"))
        changes = [part for setting in settings for part in ("--set", setting)]
        train = [
            crossalign,
            "train",
            recipe,
            "--seed",
            str(seed),
            "--out",
            str(folder),
            "--resume",
            "auto",
            *changes,
        ]
        subprocess.run(train, check=True)
        subprocess.run([crossalign, "evaluate", str(folder)], check=True)
    return folder


def describe(folder: Path) -> dict[str, Any]:
    """What one run came to."""
    training = json.loads((folder / "training.json").read_text())
    result = RetrievalResult.load(folder / "results" / "test")
    validations = [event for event in read_metrics(folder / "metrics.jsonl") if event["kind"] == "validation"]
    grounding = folder / "results" / "test" / "grounding.json"
    extra = {}
    if grounding.is_file():
        words = json.loads(grounding.read_text())
        extra["word_to_region"] = {"accuracy": words["accuracy"], "chance": words["chance"]}
    return extra | {
        "test": {name: result.metrics[name] for name in RECALLS},
        "validation_rsum": training["best_rsum"],
        "validation_rsum_by_epoch": [round(event["rsum"], 2) for event in validations],
        "best_epoch": training["best_epoch"],
        "training_seconds": round(training["seconds"], 1),
        "share_waiting_for_data": round(training["data_seconds"] / training["seconds"], 4),
    }


def main() -> None:
    """Run what is missing and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="name of the result file")
    parser.add_argument(
        "--recipe", action="append", required=True, help="the first one is the baseline; repeatable"
    )
    parser.add_argument("--seed", action="append", type=int, required=True, help="repeatable")
    parser.add_argument("--set", action="append", default=[], help="a setting for all runs; repeatable")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs are")
    arguments = parser.parse_args()
    folders = {
        recipe: [run(recipe, seed, arguments.runs, arguments.set) for seed in arguments.seed]
        for recipe in arguments.recipe
    }
    table: dict[str, Any] = {}
    for recipe, places in folders.items():
        runs = {f"seed{seed}": describe(place) for seed, place in zip(arguments.seed, places, strict=True)}
        columns = {name: [entry["test"][name] for entry in runs.values()] for name in RECALLS}
        table[recipe] = {
            "test_mean": {name: round(statistics.mean(values), 2) for name, values in columns.items()},
            "test_sd": {
                name: round(statistics.stdev(values), 2) if len(values) > 1 else None
                for name, values in columns.items()
            },
            "validation_rsum_mean": round(
                statistics.mean(entry["validation_rsum"] for entry in runs.values()), 2
            ),
            "runs": runs,
        }
    loaded = {
        recipe: [RetrievalResult.load(place / "results" / "test") for place in places]
        for recipe, places in folders.items()
    }
    baseline, *others = arguments.recipe
    comparisons = {
        f"{other} against {baseline}": compare_groups(loaded[baseline], loaded[other]).to_dict()
        for other in others
    }
    path = write_result(
        arguments.name, {"split": "test", "selected_on": "val", "recipes": table, "comparisons": comparisons}
    )
    print(path)


if __name__ == "__main__":
    main()
