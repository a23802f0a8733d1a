"""Records of runs that another study has made with the same recipe: a base model is trained but once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from crossalign.errors import CrossAlignError
from crossalign.files import atomic_path, write_json
from crossalign.study.plan import PlannedRun
from crossalign.study.records import (
    FOLDER,
    RunRecord,
    differing_from,
    load_result,
    portable_recipe,
    ranks_path,
    read_records,
    record_path,
)

__all__ = ["take_over"]


def take_over(planned: Sequence[PlannedRun], study: str, out: Path, others: Sequence[Path]) -> dict[str, str]:
    """Give runs without a record that of a finished run with the same recipe and seed.

    The record keeps its origin and says in ``taken_from`` where it was found.

    Args:
        study: name of the study that asks.
        out: its folder.
        others: folders of studies, asked in this order.

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
            if record_path(out, run).exists():
                continue
            same = [
                record
                for record in done
                if record.seed == run.seed and not differing_from(run.recipe, record)
            ]
            if same:
                found[run.key] = _copy(same[0], run, study, folder, out)
    return found


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
    write_json(record_path(out, run), taken.model_dump(mode="json"))
    return f"{folder.name}: {source}"
