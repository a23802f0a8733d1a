"""The suite of a run that was trained and recorded before it was asked for: measured later, without training again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from crossalign.errors import CrossAlignError
from crossalign.model import RetrievalModel
from crossalign.recipe_differences import differing_from_file
from crossalign.study.outcome import SPLIT, measure_suite, origin
from crossalign.study.plan import PlannedRun
from crossalign.study.records import RunRecord, differing_from, read_record, record_path, replace_record
from crossalign.study.settings import SuiteSettings
from crossalign.study.suite_data import SuiteData, kind_of, lacking, named_data
from crossalign.training.run_folder import RECIPE

__all__ = ["measure_later", "told_lack", "told_lacks", "why_not_measurable"]


def told_lack(record: RunRecord, asked: Mapping[str, SuiteData]) -> str:
    """What the record of a finished run lacks, in words; empty where it has all that is asked for."""
    assert record.outcome is not None
    return ", ".join(lacking(asked, record.outcome.suite, record.outcome.suite_data))


_SAME_RSUM = 0.1
"""R@sum of the same model on the same split: another machine's rounding may move a rank or two."""


def why_not_measurable(folder: Path, run: PlannedRun, record: RunRecord) -> str:
    """Why a run's folder cannot give what its record lacks, and what to do; empty where it can be tried."""
    if not all((folder / name).exists() for name in ("model", RECIPE, "training.json")):
        if record.taken_from is not None:
            return (
                f"it was taken from {record.taken_from}, and its model is not in {folder}; measure it there with the "
                "same options, remove this record and take it over again"
            )
        return (
            f"its model is not in {folder}; name the --runs of then, or remove the record to train it again"
        )
    # A run that was made for another study bears another name; whose model it is, its fingerprint tells.
    differing = [name for name in differing_from_file(run.recipe, folder / RECIPE) if name != "name"]
    if differing:
        return f"{folder} holds a run with other settings ({', '.join(differing)}); name the --runs of then"
    return ""


def measure_later(
    out: Path,
    folder: Path,
    run: PlannedRun,
    record: RunRecord,
    suite: SuiteSettings,
    device: str | torch.device = "cpu",
) -> RunRecord:
    """Measure the suite of a recorded run's model and write it into the record, all else as it was.

    Numbers of data that is not named now stay.

    Args:
        out: folder of the study.
        folder: of the run.

    Raises:
        CrossAlignError: the folder's model is not that of the record, or the data does not fit it.
    """
    outcome = record.outcome
    assert outcome is not None
    model = RetrievalModel.from_pretrained(folder).fingerprint
    if model != outcome.result["model"]:
        raise CrossAlignError(
            f"{folder}: holds another model ({model[:8]}) than the record's ({outcome.result['model'][:8]}); name the "
            "--runs of then, or remove the record to train it again"
        )
    numbers, data = measure_suite(folder, suite, device)
    then, now = outcome.result["metrics"]["rsum"], numbers.get("retrieval.rsum")
    if now is None or abs(now - then) > _SAME_RSUM:
        raise CrossAlignError(
            f"{folder}: R@sum is {now} now and was {then:.2f} for the record, so the collection or its features have "
            "changed; put them back, or remove the record to train it again"
        )
    kept_data = {kind: known for kind, known in (outcome.suite_data or {}).items() if kind not in data}
    kept = {
        name: value
        for name, value in (outcome.suite or {}).items()
        if (kind := kind_of(name)) is not None and kind not in data
    }
    told = record.model_copy(
        update={
            "outcome": outcome.model_copy(
                update={"suite": {**kept, **numbers}, "suite_data": {**kept_data, **data}}
            ),
            "suite_origin": origin(),
        }
    )
    replace_record(out, run, told)
    return told


def told_lacks(out: Path, runs: Path, planned: Sequence[PlannedRun], suite: SuiteSettings) -> Iterator[str]:
    """A line about every finished run whose record lacks something of the suite; nothing is measured.

    Args:
        out: folder of the study.
        runs: of the run folders.

    Raises:
        CrossAlignError: a damaged record, or data of the suite that is not there or damaged.
    """
    asked = named_data(suite, SPLIT)
    for run in planned:
        path = record_path(out, run)
        record = read_record(path) if path.exists() else None
        if record is None or record.outcome is None or differing_from(run.recipe, record):
            continue
        if lack := told_lack(record, asked):
            why = why_not_measurable(runs / run.key, run, record)
            yield f"{run.key}: its record lacks {lack}; " + (why or "without --report it is measured")
