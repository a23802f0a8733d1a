"""Where a run stands, and its best model so far."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from crossalign.folders import atomic_folder
from crossalign.model import RetrievalModel

__all__ = ["RunState", "keep_epoch", "kept_epochs", "kept_place", "promote_best", "stage_best"]


@dataclass
class RunState:
    """What the loop counts.

    Attributes:
        epoch: epochs done.
        epoch_step: steps done in the epoch that runs.
        step: steps done in all.
        best: best validation R@sum so far; below zero before the first validation.
        best_epoch: epoch of the best, counted from 1.
        stale: validations since then.
        seconds: wall time of training steps, validation excluded.
        data_seconds: part of ``seconds`` spent waiting for batches.
        cpu_seconds: processor time of these steps, of all threads of this process.
        collapsed: steps in a row at the hinge's collapse value.
    """

    epoch: int = 0
    epoch_step: int = 0
    step: int = 0
    best: float = -1.0
    best_epoch: int = 0
    stale: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    cpu_seconds: float = 0.0
    collapsed: int = 0


def stage_best(folder: Path, model: RetrievalModel, epoch: int) -> None:
    """Write the best model of a run where it waits for the checkpoint that knows of it."""
    model.save_pretrained(folder / "checkpoints" / f"best-{epoch}")


def promote_best(folder: Path, best_epoch: int) -> None:
    """Make the staged model of ``best_epoch`` the run's ``model/`` and remove every other staged one.

    A run that is killed between model and checkpoint leaves a model of an epoch that it will run again, perhaps to
    another end: only what the checkpoint calls the best becomes the run's model.
    """
    for staged in sorted((folder / "checkpoints").glob("best-*")):
        if staged.name == f"best-{best_epoch}":
            with atomic_folder(folder / "model", overwrite=True) as temporary:
                shutil.copytree(staged, temporary, dirs_exist_ok=True, copy_function=_link_or_copy)
        shutil.rmtree(staged)


def keep_epoch(folder: Path, model: RetrievalModel, epoch: int, count: int) -> None:
    """Keep the model of an epoch beside the checkpoint, and of those of earlier epochs the last ``count - 1``."""
    model.save_pretrained(kept_place(folder, epoch))
    for other in kept_epochs(folder)[:-count]:
        shutil.rmtree(kept_place(folder, other))


def kept_epochs(folder: Path) -> list[int]:
    """The epochs, counted from 1, whose models :func:`keep_epoch` has kept."""
    found = (folder / "checkpoints").glob("epoch-*")
    numbers = (place.name.removeprefix("epoch-") for place in found)
    return sorted(int(number) for number in numbers if number.isdecimal())


def kept_place(folder: Path, epoch: int) -> Path:
    """Where the kept model of an epoch is."""
    return folder / "checkpoints" / f"epoch-{epoch}"


def _link_or_copy(source: str, target: str) -> None:
    """Another name for the same bytes, where the file system knows such a thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
