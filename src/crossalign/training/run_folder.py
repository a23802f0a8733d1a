"""A run's folder around training: whether it may be written to, whether its run can go on, what is left of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from crossalign.errors import CrossAlignError
from crossalign.files import read_json
from crossalign.folders import restore_folder
from crossalign.model_folder import SETTINGS
from crossalign.recipe import Recipe, load_recipe
from crossalign.recipe_differences import differing_settings
from crossalign.training.metrics import MetricsLog
from crossalign.training.state import RunState

__all__ = [
    "AVERAGE",
    "RECIPE",
    "check_model",
    "check_place",
    "check_recipe",
    "cleared_without_step",
    "read_outcome",
]

# The first file of a run.
RECIPE = "recipe.yaml"

# What tells an average of models from a run.
AVERAGE = "average.json"


def check_place(folder: Path) -> None:
    """Refuse a place where no folder can be, or where a run would meet other things.

    Raises:
        CrossAlignError: it is a file, or below one, or it holds something and no run.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise CrossAlignError(f"{there}: not a folder; choose another place for the run (--out)")
    if (folder / AVERAGE).exists():
        raise CrossAlignError(
            f"{folder}: holds an average of models and no run; choose another folder (--out)"
        )
    if there != folder or (folder / RECIPE).exists():
        return
    # A leading dot: what a run that was killed over its first file has left, or what a file manager has put there.
    foreign = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if foreign:
        raise CrossAlignError(
            f"{folder}: holds '{foreign[0]}' and no run ({RECIPE} is missing); choose another folder (--out)"
        )


def check_recipe(recipe: Recipe, path: Path) -> None:
    """Refuse to go on with another recipe than that of ``path``: it would mix two runs.

    Raises:
        CrossAlignError: the recipe there cannot be read, or differs in what changes weights.
    """
    try:
        found = load_recipe(path)
    except CrossAlignError as error:
        raise CrossAlignError(f"{error}; the run there cannot go on, choose another folder") from None
    differing = differing_settings(recipe, found.model_dump(mode="json"))
    if differing:
        raise CrossAlignError(
            f"{path}: the run there has another recipe ({', '.join(differing)}); choose another folder"
        )


def check_model(folder: Path) -> None:
    """Refuse to go on without the best weights so far: the checkpoint has only the last ones.

    Raises:
        CrossAlignError: ``model/`` is gone.
    """
    restore_folder(folder / "model")
    if not (folder / "model" / SETTINGS).is_file():
        raise CrossAlignError(
            f"{folder / 'model'}: the model of this run is gone; put it back, or remove {folder} and train again"
        )


@contextmanager
def cleared_without_step(folder: Path, log: MetricsLog | None, state: RunState) -> Iterator[None]:
    """Take the recipe and the log away again where an error ends a new run at its first step.

    They would be in the way of the same command with the error mended. A kill leaves them.

    Args:
        log: the run's; None in a process that writes nothing.
    """
    new = state.step == 0
    try:
        yield
    except Exception:
        # Counted before the step is known to be good.
        if log is not None and new and state.step <= 1 and not (folder / "checkpoints").exists():
            log.close()
            for name in (RECIPE, "metrics.jsonl"):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
            with suppress(OSError):  # it holds other things
                folder.rmdir()
        raise


def read_outcome(path: Path, names: Set[str], newer: Set[str] = frozenset()) -> dict[str, Any]:
    """The numbers of these names that a finished run has written to ``training.json``.

    Args:
        newer: those of them that an older version did not write.

    Raises:
        CrossAlignError: it holds anything else.
    """
    content = read_json(path, "remove it, and --resume auto writes it again")
    if not isinstance(content, dict) or not names - newer <= content.keys() <= names:
        raise CrossAlignError(
            f"{path}: does not hold {', '.join(sorted(names - newer))}; remove it, and --resume auto writes it again"
        )
    for name, value in content.items():
        if not isinstance(value, int | float):
            raise CrossAlignError(
                f"{path}: {name} is not a number; remove it, and --resume auto writes it again"
            )
    return content
