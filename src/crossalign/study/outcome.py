"""From a finished run folder to what its record tells."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from crossalign import __version__
from crossalign.evaluation.gallery import EmbeddingGallery, gallery_table
from crossalign.evaluation.of_run import RunEvaluation, evaluate_run
from crossalign.evaluation.results import write_ranks
from crossalign.provenance import code_state, machine, now, shown_command
from crossalign.recipe import load_recipe
from crossalign.study.records import Origin, RunOutcome
from crossalign.study.settings import SuiteSettings
from crossalign.study.suite_data import SuiteData, described_data
from crossalign.suite.further import FurtherData
from crossalign.suite.run import evaluate_suite
from crossalign.suite.sentence_states import SentenceStates
from crossalign.suite.subject import open_subject
from crossalign.training.fine_tuning import freeze_blocks
from crossalign.training.metrics import read_metrics
from crossalign.training.run_folder import RECIPE
from crossalign.training.trainer import TrainingResult
from crossalign.truncation import width_of_share

__all__ = ["SPLIT", "measure_run", "measure_suite", "origin"]

SPLIT = "test"
"""What is measured; epochs are chosen on the recipe's validation split."""

SHARES = {"1/2": 1 / 2, "1/4": 1 / 4, "1/8": 1 / 8}
"""Shares of the width at which every model that has embeddings is measured, too."""


def origin() -> Origin:
    """Version, commit, machine, command line and time of this process."""
    return Origin(
        version=__version__,
        command=shown_command("crossalign", sys.argv[1:]),
        date=now(),
        machine=machine(),
        **code_state(),
    )


def measure_run(
    folder: Path,
    training: TrainingResult,
    ranks: Path,
    *,
    suite: SuiteSettings | None = None,
    device: str | torch.device = "cpu",
) -> RunOutcome:
    """Evaluate a trained run on the test split and gather what its log says.

    The result goes to ``results/test`` of the run's folder, as ``crossalign evaluate`` saves it, and its ranks also to
    the file ``ranks``.

    Args:
        suite: what else to measure; goes to ``results/suite-test``.

    Raises:
        CrossAlignError: the model and the collection do not fit.
    """
    measured = evaluate_run(
        folder, split=SPLIT, device=device, command=shown_command("crossalign", sys.argv[1:])
    )
    measured.save(folder / "results" / SPLIT)
    checksum = write_ranks(ranks, measured.result.table, compressed=True)
    words = measured.grounding
    events = read_metrics(folder / "metrics.jsonl")
    validations = [event for event in events if event["kind"] == "validation"]
    trained = [event for event in events if event["kind"] == "train"]
    freeze_blocks(measured.model, load_recipe(folder / RECIPE).optimizer)
    parameters = list(measured.model.parameters())
    numbers, data = (None, None) if suite is None else measure_suite(folder, suite, device)
    return RunOutcome(
        result=measured.result.to_dict() | {"ranks": {"file": "ranks.npz", "sha256": checksum}},
        word_to_region=None if words is None else _numbers(words.to_json()),
        validation_rsum=training.best_rsum,
        best_epoch=training.best_epoch,
        validation=[
            {name: _short(value) for name, value in _numbers(event).items()} for event in validations
        ],
        epochs=training.epochs,
        steps=training.steps,
        seconds=round(training.seconds, 1),
        cpu_seconds=round(training.cpu_seconds, 1) or None,
        share_waiting_for_data=_short(training.data_seconds / max(training.seconds, 1e-9)),
        parameters=sum(parameter.numel() for parameter in parameters),
        trained_parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        embedding_width=measured.model.dim,
        embedding_views=getattr(measured.model.config.image.encoder, "views", 1),
        rsum_at_width=_rsum_at_width(measured),
        suite=numbers,
        suite_data=data,
        last=_last(trained),
        by_epoch=_by_epoch(trained, training.epochs),
    )


def measure_suite(
    folder: Path, suite: SuiteSettings, device: str | torch.device = "cpu"
) -> tuple[dict[str, float], dict[str, SuiteData]]:
    """The numbers of ``crossalign evaluate-all`` for a trained run, and the further data that they were measured on.

    The result goes to ``results/suite-test`` of the run's folder.

    Raises:
        CrossAlignError: data that is named is not there, is damaged, or does not fit the model.
    """
    further = FurtherData.read(SPLIT, **suite.model_dump())
    result = evaluate_suite(
        open_subject(folder, device=device),
        further,
        split=SPLIT,
        # Beside the runs, for all of them.
        sentence_states=SentenceStates(folder.parent / "sentence-states"),
        command=shown_command("crossalign", sys.argv[1:]),
    )
    result.save(folder / "results" / f"suite-{SPLIT}")
    return {name: _short(value) for name, value in result.metrics.items()}, described_data(suite, further)


def _rsum_at_width(measured: RunEvaluation) -> dict[str, float] | None:
    """R@sum of the same embeddings, cut; None where there are none."""
    gallery, model = measured.gallery, measured.model
    if not isinstance(gallery, EmbeddingGallery):
        return None
    owner, parts = measured.result.table.image_of_text, model.embedding_parts
    return {
        name: gallery_table(
            gallery.truncated(width_of_share(share, model.dim, parts), parts), owner
        ).metrics()["rsum"]
        for name, share in SHARES.items()
    }


def _numbers(event: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line of the log."""
    return {
        name: value
        for name, value in event.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _short(value: float) -> float:
    """Six digits: more only fill the file."""
    return float(f"{value:.6g}")


def _last(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    last: dict[str, float] = {}
    for event in events:
        last |= _numbers(event)
    return {name: _short(value) for name, value in last.items() if name not in ("step", "epoch")}


def _by_epoch(events: Iterable[Mapping[str, Any]], epochs: int) -> dict[str, list[float | None]]:
    sums: dict[str, list[list[float]]] = {}
    for event in events:
        for name, value in _numbers(event).items():
            if name not in ("step", "epoch"):
                sums.setdefault(name, [[] for _ in range(epochs)])[event["epoch"] - 1].append(value)
    return {
        name: [_short(sum(values) / len(values)) if values else None for values in lists]
        for name, lists in sums.items()
    }
