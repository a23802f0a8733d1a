"""The data of a training run: what a model is measured on, and where the result goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crossalign.data.tables import DESCRIPTION
from crossalign.errors import CrossAlignError
from crossalign.files import read_json
from crossalign.recipe import Recipe, load_recipe
from crossalign.sources import Sources

__all__ = [
    "place_of_result",
    "run_recipe",
    "run_sources",
    "short_name",
    "told_inputs",
    "told_name",
    "trained_on",
]


def run_recipe(name: str | Path) -> Recipe | None:
    """The recipe of a training run; None where ``name`` is no run."""
    path = Path(name) / "recipe.yaml"
    return load_recipe(path) if path.is_file() else None


def trained_on(name: str | Path) -> str | None:
    """The name of the collection that a run was trained on, by its folder where it is no longer there; None for what is
    no run: a model alone does not know."""
    recipe = run_recipe(name)
    if recipe is None:
        return None
    folder = Path(recipe.data.collection)
    path = folder / DESCRIPTION
    told = read_json(path).get("name") if path.is_file() else None
    return told if isinstance(told, str) and told else folder.name


def run_sources(
    name: str | Path,
    collection: str | Path | None = None,
    image_features: Sequence[str] = (),
    text_features: str | None = None,
    *,
    raw: bool = False,
) -> Sources:
    """The collection and the stores to measure a model on.

    A run's own stores stand in for those that are not named, unless ``raw`` asks for photos and captions themselves.
    In another collection, or the run's own where it is now, they are the stores of the same names, where there are
    any.

    Raises:
        CrossAlignError: no collection is named, neither here nor by a run; no such collection or store; ``raw`` and a
            store.
    """
    if raw and (image_features or text_features is not None):
        option = "--image-features" if image_features else "--text-features"
        raise CrossAlignError(f"--raw reads no stores, and {option} names one; give one of both")
    recipe = run_recipe(name)
    place = collection or (recipe.data.collection if recipe is not None else None)
    if place is None:
        raise CrossAlignError(f"{name}: not a training run, so it names no collection; give --collection")
    folder = Path(place)
    stores, text_store = tuple(image_features), text_features
    if recipe is not None and not raw:
        own, own_text = _names_of_stores(folder, recipe)
        if not _is_own(folder, recipe):
            own = own if all(_stored(folder, name) for name in own) else ()
            own_text = own_text if own_text is not None and _stored(folder, own_text) else None
        stores, text_store = stores or own, text_store or own_text
    return Sources.open(folder, stores, text_store)


def told_inputs(sources: Sources) -> str:
    """What a model is given of a collection, in words."""
    images = ", ".join(store.folder.name for store in sources.image_stores)
    text = sources.text_store
    return (
        f"{sources.collection.folder}: images from {f'the stored features {images}' if images else 'the photos'}, "
        f"captions from {f'the stored features {text.folder.name}' if text is not None else 'their words'}"
    )


def short_name(model: str | Path) -> str:
    """The name of a model's folder; that of its run where it is a run's ``model``."""
    place = Path(model).resolve()
    return place.parent.name if place.name == "model" else place.name


def told_name(model: str | Path) -> str:
    """The last parts of a model's path as they were told: ``runs/scan``, also for ``/data/runs/scan/model``."""
    parts = [part for part in Path(model).parts if part not in ("/", "..")]
    if parts[-1:] == ["model"]:
        parts.pop()
    return "/".join(parts[-2:]) or short_name(model)


def place_of_result(
    run: Path,
    recipe: Recipe,
    sources: Sources,
    split: str,
    folds: int,
    width: int | None = None,
    rerank: str | None = None,
    rerank_top: int = 0,
    ensemble_with: Sequence[str] = (),
    scale: str | None = None,
    hubness: str | None = None,
) -> Path:
    """Where a result goes if nothing else is said: each under a name of its own.

    ``RUN/results/SPLIT`` is for the run's own collection and stores. Folds, another collection and other inputs follow
    in the name: ``test-5-folds``, ``test-on-other``, ``test-raw``, ``test-with-stores+captions``; the width of cut
    embeddings and a second model too: ``test-width-64``, ``test-50-by-scan``; models beside it as ``test-mean-with-b``.
    A correction of hubs: ``test-dual-softmax``.
    """
    collection = sources.collection.folder
    used = [store.folder for store in (*sources.image_stores, sources.text_store) if store is not None]
    own, own_text = _names_of_stores(collection, recipe)
    expected = [_stored(collection, name) or Path(name) for name in (*own, own_text) if name is not None]
    parts = [split]
    if folds > 1:
        parts.append(f"{folds}-folds")
    if not _is_own(collection, recipe):
        parts.append(f"on-{collection.resolve().name}")
    if [store.resolve() for store in used] != [store.resolve() for store in expected]:
        parts.append(f"with-{'+'.join(store.resolve().name for store in used)}" if used else "raw")
    if width is not None:
        parts.append(f"width-{width}")
    if rerank is not None:
        parts.append(f"{rerank_top}-by-{short_name(rerank)}")
    if ensemble_with:
        parts.append(f"mean-with-{'+'.join(short_name(other) for other in ensemble_with)}")
    if scale is not None:
        parts.append(scale)
    if hubness is not None:
        parts.append(hubness)
    return run / "results" / "-".join(parts)


def _is_own(collection: Path, recipe: Recipe) -> bool:
    return collection.resolve() == Path(recipe.data.collection).resolve()


def _names_of_stores(collection: Path, recipe: Recipe) -> tuple[tuple[str, ...], str | None]:
    """The run's stores as its recipe names them; in another collection their last names alone, not paths."""
    images, text = tuple(recipe.data.image_features), recipe.data.text_features
    if _is_own(collection, recipe):
        return images, text
    return tuple(Path(name).name for name in images), None if text is None else Path(text).name


def _stored(collection: Path, name: str) -> Path | None:
    """Where a collection has a store of this name, as :func:`~crossalign.data.loading.find_store` looks for it."""
    places = (collection / "features" / name, collection / name)
    return next((place for place in places if place.is_dir()), None)
