"""Records of runs that another study has made with the same recipe: a base model is trained but once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from crossalign.errors import CrossAlignError
from crossalign.files import atomic_path
from crossalign.study.claim import claimed
from crossalign.study.plan import PlannedRun
from crossalign.study.records import (
    FOLDER,
    RunRecord,
    differing_from,
    load_result,
    portable_recipe,
    ranks_path,
    read_record,
    read_records,
    record_path,
    replace_record,
)

__all__ = ["take_over"]


def take_over(
    planned: Sequence[PlannedRun],
    study: str,
    out: Path,
    others: Sequence[Path],
    *,
    runs: Path,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """Give runs that have no record, or that of a failure, the record of a finished run with the same recipe and seed.

    The record keeps its origin and says in ``taken_from`` where it was found. A run that is being trained is left to
    whoever trains it.

    Args:
        study: name of the study that asks.
        out: its folder.
        others: folders of studies, asked in this order.
        runs: folder of the run folders, where runs are claimed.
        tell: takes a line about every run that is in other hands.

    Returns:
        Where each record was found, by the key of its run.

    Raises:
        CrossAlignError: a folder is that of no study, or holds a damaged record or one without its ranks.
    """
    found: dict[str, str] = {}
    for folder in others:
        if not (folder / FOLDER).is_dir():
            raise CrossAlignError(f"{folder}: holds no records of a study; name its folder (its --out)")
        done = [record for record in read_records(folder).values() if record.status == "done"]
        for run in planned:
            if run.key in found or _finished(out, run):
                continue
            same = [
                record
                for record in done
                if record.seed == run.seed and not differing_from(run.recipe, record)
            ]
            if not same:
                continue
            with claimed(runs, run.key) as holder:
                if holder is not None:
                    tell(f"{run.key}: not taken over, in work by {holder}")
                elif not _finished(out, run):
                    found[run.key] = _copy(same[0], run, study, folder, out)
    return found


def _finished(out: Path, run: PlannedRun) -> bool:
    """Whether a run has a record other than that of a failure."""
    path = record_path(out, run)
    return path.exists() and read_record(path).status == "done"


def _copy(record: RunRecord, run: PlannedRun, study: str, folder: Path, out: Path) -> str:
    # Refuses ranks that are missing or not those of the record.
    load_result(folder, replace(run, variant=record.variant), record)
    source = f"{record.variant}-seed{record.seed}"
    taken = record.model_copy(
        update={
            "study": study,
            "variant": run.variant,
            "recipe": portable_recipe(run.recipe),
            "taken_from": record.taken_from or f"{record.study}: {source}",
        }
    )
    # The record last: its presence means that the run is settled.
    with atomic_path(ranks_path(out, run)) as temporary:
        shutil.copyfile(folder / FOLDER / f"{source}.ranks.npz", temporary)
    replace_record(out, run, taken)
    return f"{folder.name}: {source}"
