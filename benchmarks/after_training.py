"""What can be had from trained models without training: ensembles, corrections of hubs, and another collection.

Every run of one recipe is measured alone, with the run of the other recipe that has the same seed, with the next run of
its own recipe, and with each correction of hubs; on validation, where choices are made, and on the test split. What
looks at all test queries together is marked transductive. With a second collection, it also tells how each run does
there, on photos that no model has seen.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from _common import write_result
from crossalign.errors import CrossAlignError
from crossalign.evaluation.hubness import BANK_METHODS, METHODS
from crossalign.evaluation.of_model import Hubness
from crossalign.evaluation.of_run import evaluate_run

SPLITS = {"validation": "val", "test": "test"}


def rsum(run: Path, split: str, **settings: Any) -> float:
    """R@sum of a run on one split."""
    value = evaluate_run(run, split=split, **settings).result.metrics["rsum"]
    print(f"{run.name} {split} {settings or ''}: {value:.2f}", flush=True)
    return value


def ways(runs: list[Path], others: list[Path], place: int) -> dict[str, dict[str, Any]]:
    """What is done with the run at ``place``: settings of an evaluation, by name."""
    found: dict[str, dict[str, Any]] = {"alone": {}}
    if len(runs) > 1:
        found["with the next seed"] = {"ensemble_with": [runs[(place + 1) % len(runs)]]}
    if others:
        found["with the other recipe"] = {"ensemble_with": [others[place]]}
    return found | {f"hubs: {method}": {"hubness": Hubness(method)} for method in METHODS}


def told(values: list[float]) -> dict[str, Any]:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.mean(values), "deviation": spread, "all": values}


def against_alone(measured: Mapping[str, Mapping[str, list[float]]], name: str) -> dict[str, Any]:
    """By how much R@sum on test differs from that of the run alone, run by run."""
    return told(
        [
            with_it - alone
            for with_it, alone in zip(measured[name]["test"], measured["alone"]["test"], strict=True)
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of one recipe, a seed each")
    parser.add_argument(
        "--other", type=Path, action="append", default=[], help="run of another recipe, for each of them"
    )
    parser.add_argument("--elsewhere", type=Path, help="folder of a second collection")
    parser.add_argument("--elsewhere-split", default="test", help="its split")
    parser.add_argument("--threads", type=int, default=1, help="threads of the computation")
    arguments = parser.parse_args()
    if arguments.other and len(arguments.other) != len(arguments.runs):
        parser.error(f"{len(arguments.runs)} runs and {len(arguments.other)} --other; give one for each")
    torch.set_num_threads(arguments.threads)
    measured: dict[str, dict[str, list[float]]] = {}
    try:
        for place, run in enumerate(arguments.runs):
            for name, settings in ways(arguments.runs, arguments.other, place).items():
                for kind, split in SPLITS.items():
                    measured.setdefault(name, {}).setdefault(kind, []).append(rsum(run, split, **settings))
        elsewhere = None
        if arguments.elsewhere is not None:
            settings = {"collection": arguments.elsewhere, "raw": True}
            split = arguments.elsewhere_split
            elsewhere = {
                "collection": arguments.elsewhere.name,
                "split": split,
                "runs": told([rsum(run, split, **settings) for run in arguments.runs]),
                "other": told([rsum(run, split, **settings) for run in arguments.other])
                if arguments.other
                else None,
            }
    except CrossAlignError as error:
        raise SystemExit(f"after_training: {error}") from None
    path = write_result(
        "after_training",
        {
            "runs": [run.name for run in arguments.runs],
            "other": [run.name for run in arguments.other],
            "rsum": {
                name: {kind: told(values) for kind, values in kinds.items()}
                for name, kinds in measured.items()
            },
            "difference_on_test": {
                name: against_alone(measured, name) for name in measured if name != "alone"
            },
            "transductive": [f"hubs: {method}" for method in METHODS if method not in BANK_METHODS],
            "elsewhere": elsewhere,
        },
    )
    print(f"saved: {path}")


if __name__ == "__main__":
    main()
