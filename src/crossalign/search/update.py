"""The life of an update: an index is locked, found fitting or begun anew, brought in line, and completed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from crossalign.progress import progress_bar
from crossalign.search.content import Changes, ChangesT_co, Content, Step
from crossalign.search.embedder import Embedder
from crossalign.search.lock import IndexLock
from crossalign.search.manifest import MANIFEST_FILE, Manifest, write_manifest
from crossalign.search.models import EmbeddingModel, load_model, model_name
from crossalign.search.opening import fitting, new_store, open_store, present
from crossalign.search.place import REBUILD_FILE, remove_leftovers
from crossalign.search.store import VectorStore

__all__ = ["bring_up_to_date"]


def bring_up_to_date(
    content: Content[ChangesT_co],
    place: Path,
    model: EmbeddingModel | str | Path,
    *,
    rebuild: bool = False,
    device: str = "auto",
    progress: bool = False,
) -> tuple[Manifest, ChangesT_co]:
    """Make an index, or bring it up to date; it may be killed at any moment, and the next run finishes.

    Args:
        content: what the index follows.
        place: its folder, which holds nothing else; made if it is not there.
        model: a model, its folder, or its Hub name.
        rebuild: embed everything anew beside the present index, then swap.
        device: where a model that is loaded here runs.
        progress: show a bar.

    Returns:
        What the index says about itself now, and what has been changed.

    Raises:
        CrossAlignError: the index is of something else, in use or damaged, and has not been touched; or the model or
            the store failed on the way.
    """
    wanted, name = content.wanted, model_name(model)
    loaded: EmbeddingModel | None = None
    if not place.exists() or not any(place.iterdir()):
        # A model that cannot be loaded, or has no embeddings, must leave neither an empty folder nor a lock.
        loaded = load_model(model, device, wanted.width)
        place.mkdir(parents=True, exist_ok=True)
    with IndexLock(place, "crossalign index"):
        path = place / (REBUILD_FILE if rebuild else MANIFEST_FILE)
        # Read before the model is loaded: what is wrong here should be said at once.
        manifest = present(path, wanted, rebuild)
        loaded = loaded or load_model(model, device, wanted.width)
        fingerprint = loaded.fingerprint
        manifest = fitting(manifest, fingerprint, wanted, place, rebuild)
        opened = None if manifest is None else open_store(place, manifest, loaded, rebuild, content)
        if opened is None:
            opened = new_store(place, name, loaded, fingerprint, content)
            # A store comes before its description: none is without.
            write_manifest(path, opened.embedder.manifest)
        store, embedder, changes = opened
        try:
            # Model and source may have moved since the last run.
            named = {"model": name, "photos": wanted.photos, "texts": wanted.texts}
            manifest = embedder.manifest.model_copy(update=named)
            if not (changes.empty and manifest.complete):
                write_manifest(path, manifest.model_copy(update={"complete": False}))
                _carry_out(changes, store, embedder, f"index {wanted.holds}", progress)
            count = store.count()
        finally:
            store.close()
        manifest = manifest.model_copy(update={"complete": True, "count": count})
        write_manifest(path, manifest)
        if rebuild:
            path.replace(place / MANIFEST_FILE)
        remove_leftovers(place)
    return manifest, changes


def _carry_out(changes: Changes, store: VectorStore, embedder: Embedder, told: str, progress: bool) -> None:
    """Write step after step, then arrange what is there."""
    with (
        progress_bar(progress and changes.total > 0) as bar,
        closing(changes.steps(store, embedder)) as steps,
    ):
        task = bar.add_task(told, total=changes.total, status="")
        for step in steps:
            _write(store, step)
            bar.update(task, advance=step.done, status=step.status)
        bar.update(task, status="arranging")
        store.optimize()
        store.flush()


def _write(store: VectorStore, step: Step) -> None:
    store.delete(step.gone)
    if step.items:
        store.upsert(
            [item.id for item in step.items],
            np.stack([item.vectors for item in step.items]),
            [item.payload for item in step.items],
            None
            if store.uni is None
            else np.stack([item.uni for item in step.items if item.uni is not None]),
        )
    store.update_payloads(step.payloads)
