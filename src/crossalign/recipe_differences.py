"""In which settings a recipe that was read back differs from the one that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from crossalign.recipe import Recipe

__all__ = ["differing_from_file", "differing_settings"]

# Settings that change what is written or how fast it goes, never the weights.
HARMLESS = frozenset(
    {
        "training.log_every",
        "training.checkpoint_every",
        "training.keep_epochs",
        "training.tensorboard",
        "data.workers",
    }
)


def differing_settings(asked: Recipe, found: Any) -> tuple[str, ...]:
    """The settings in which a recipe read back differs from ``asked``, such as ``objective.lca.concepts``.

    What cannot change the weights is left out. A setting that came into being after ``found`` was written counts with
    its default, so that older runs keep their place.
    """
    # A setting of then that is unknown now stands among the differences.
    with suppress(ValidationError):
        found = Recipe.model_validate(found).model_dump(mode="json")
    return tuple(sorted(set(_differences(asked.model_dump(mode="json"), found, "")) - HARMLESS))


def differing_from_file(asked: Recipe, path: Path) -> tuple[str, ...]:
    """The settings in which a run's ``recipe.yaml`` differs; one that cannot be read differs as a whole."""
    found: Any = None
    with suppress(yaml.YAMLError, UnicodeDecodeError):
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    return differing_settings(asked, found)


def _differences(asked: Any, found: Any, place: str) -> Iterator[str]:
    if not isinstance(asked, dict) or not isinstance(found, dict):
        if asked != found:
            yield place.removesuffix(".") or "the whole"
        return
    for key in (*asked, *(key for key in found if key not in asked)):
        if key not in asked or key not in found:
            yield f"{place}{key}"
        else:
            yield from _differences(asked[key], found[key], f"{place}{key}.")
