"""Settings that nothing would read, or that cannot both hold: refused before a run begins."""

from __future__ import annotations

from crossalign.errors import CrossAlignError
from crossalign.recipe import Recipe

__all__ = ["refuse_idle_settings"]


def refuse_idle_settings(recipe: Recipe) -> None:
    """Refuse a recipe that names teachers or uni-modal heads and has no loss that would use them, or a mini batch that
    is larger than the batch.

    Asked where a run begins and not where a recipe is read: the folder of a run that was made with such a recipe opens,
    and goes on, as before.

    Raises:
        CrossAlignError: ``data.teachers`` without ``objective.csa`` or ``objective.usa``, or ``model.uni_modal_head``
            without ``objective.usa``, or ``training.mini_batch_size`` above ``training.batch_size``.
    """
    whole, part = recipe.training.batch_size, recipe.training.mini_batch_size
    if part is not None and part > whole:
        raise CrossAlignError(
            f"training.mini_batch_size is {part}, and a batch has {whole} pairs (training.batch_size); lower it, or "
            "leave it out"
        )
    if recipe.data.teachers is not None and not recipe.objective.asks_teachers:
        raise CrossAlignError(
            "data.teachers: no loss asks them; add objective.csa or objective.usa, or leave data.teachers out (null)"
        )
    if recipe.model.uni_modal_head is not None and recipe.objective.usa is None:
        raise CrossAlignError(
            "model.uni_modal_head: no loss trains it; add objective.usa, or leave model.uni_modal_head out (null)"
        )
