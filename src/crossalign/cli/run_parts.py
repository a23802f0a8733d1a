"""What commands on a trained model share: its own collection and features, or those that the options name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crossalign.errors import CrossAlignError

if TYPE_CHECKING:
    from crossalign.recipe import Recipe
    from crossalign.sources import Sources

__all__ = ["open_sources"]


def open_sources(
    model: str,
    collection: Path | None,
    image_features: Sequence[str],
    text_features: str | None,
    *,
    raw: bool,
) -> tuple[Sources, Recipe | None]:
    """The collection and the stores to take, and the recipe where the model is a training run.

    A run's own stores stand in for options that were left out, unless another collection is named or ``raw`` asks
    for photos and captions themselves.

    Raises:
        CrossAlignError: no collection is named, neither by an option nor by a run; no such collection or store.
    """
    from crossalign.recipe import load_recipe
    from crossalign.sources import Sources

    run = Path(model)
    recipe = load_recipe(run / "recipe.yaml") if (run / "recipe.yaml").is_file() else None
    place = collection or (Path(recipe.data.collection) if recipe is not None else None)
    if place is None:
        raise CrossAlignError(f"{model}: not a training run, so it names no collection; give --collection")
    stores, text_store = tuple(image_features), text_features
    if recipe is not None and collection is None and not raw:
        stores = stores or tuple(recipe.data.image_features)
        text_store = text_store or recipe.data.text_features
    return Sources.open(place, stores, text_store), recipe
