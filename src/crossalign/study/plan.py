"""From a study to the runs that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossalign.errors import CrossAlignError
from crossalign.recipe import Recipe, load_recipe
from crossalign.study.settings import StudySettings, as_override

__all__ = ["PlannedRun", "chosen_variants", "plan_runs"]


@dataclass(frozen=True)
class PlannedRun:
    """One run that a study asks for."""

    variant: str
    seed: int
    recipe: Recipe

    @property
    def key(self) -> str:
        """Names its files: ``VARIANT-seedN``."""
        return f"{self.variant}-seed{self.seed}"


def plan_runs(study: StudySettings, seeds: Sequence[int], overrides: Sequence[str] = ()) -> list[PlannedRun]:
    """Every variant with every seed; the first seed of all variants first, so that a whole table comes early.

    Settings are changed in this order: the study's collection, its ``set``, the variant's ``set``, ``overrides``.

    Raises:
        CrossAlignError: a recipe that does not exist, an unknown key or a wrong value; the variant is named.
    """
    recipes = {name: _recipe(study, name, overrides) for name in study.variants}
    return [
        PlannedRun(name, seed, recipe.model_copy(update={"seed": seed}))
        for seed in seeds
        for name, recipe in recipes.items()
    ]


def _recipe(study: StudySettings, name: str, overrides: Sequence[str]) -> Recipe:
    variant = study.variants[name]
    place = [] if study.collection is None else [as_override("data.collection", study.collection)]
    try:
        return load_recipe(
            variant.recipe,
            [
                *place,
                *study.set,
                *variant.set,
                *overrides,
                as_override("name", f"{study.name}-{name}"),
            ],
        )
    except CrossAlignError as error:
        raise CrossAlignError(f"study {study.name}, variant {name}: {error}") from None


def chosen_variants(study: StudySettings, names: Sequence[str]) -> tuple[str, ...]:
    """The variants asked for, in the order of the study; all of them where none is named.

    Raises:
        CrossAlignError: a name that is no variant.
    """
    unknown = [name for name in names if name not in study.variants]
    if unknown:
        raise CrossAlignError(
            f"study {study.name}: no variant '{unknown[0]}'; there are {', '.join(study.variants)}"
        )
    return tuple(name for name in study.variants if not names or name in names)
