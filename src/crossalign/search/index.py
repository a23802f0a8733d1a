"""An index: a folder that holds the embeddings of another folder's photos and follows its changes."""

from __future__ import annotations

import datetime
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from crossalign.errors import CrossAlignError
from crossalign.search.edge import EdgeStore
from crossalign.search.lock import IndexLock
from crossalign.search.manifest import MANIFEST_FILE, Manifest, read_manifest, write_manifest
from crossalign.search.models import EmbeddingModel, embed_images, load_model, model_name
from crossalign.search.place import REBUILD_FILE, check_place, default_index, remove_leftovers
from crossalign.search.scan import PHOTO_SUFFIXES, Failure, Scan, scan_photos
from crossalign.search.update import Plan, StoreUpdate, plan_update

__all__ = ["IndexSummary", "update_index"]


@dataclass(frozen=True)
class IndexSummary:
    """What one run did, in photos; ``photos`` is how many the index holds now, ``width`` what embeddings are cut to."""

    index: str
    folder: str
    model: str | None
    fingerprint: str
    photos: int
    added: int
    changed: int
    renamed: int
    removed: int
    unchanged: int
    failed: int
    failures: tuple[Failure, ...]
    width: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def update_index(
    model: EmbeddingModel | str | Path,
    folder: str | Path,
    index: str | Path | None = None,
    *,
    rebuild: bool = False,
    width: int | None = None,
    batch_size: int = 32,
    device: str = "auto",
    progress: bool = False,
) -> IndexSummary:
    """Make the index of a photo folder, or bring it up to date: only what is new, changed or gone is touched.

    May be killed at any moment: the index stays usable, and the next run finishes. Photos that cannot be read
    are left out and listed in the summary.

    Args:
        model: a model, its folder, or its Hub name.
        folder: photos, in any depth.
        index: folder of the index, :func:`~crossalign.search.place.default_index` if left out.
        rebuild: embed everything anew beside the present index, then swap; takes another model, folder or width.
        width: store embeddings cut to that many numbers, see :func:`~crossalign.truncation.truncate`; searches cut
            their queries alike. None: whole ones.
        batch_size: photos a step.
        device: where a model that is loaded here runs.
        progress: show a bar.

    Raises:
        CrossAlignError: no photos, a model, a folder or a width other than the index has, a width that the model's
            embeddings do not have, an index in use or damaged, a place that holds other things. Nothing in the place
            has been touched then.
    """
    photos = Path(folder).resolve()
    place = default_index(photos) if index is None else Path(index).resolve()
    check_place(photos, place)
    found = scan_photos(photos, skip=place)
    if not found.files and not found.failures:
        raise CrossAlignError(
            f"{photos}: no photos found ({' '.join(sorted(PHOTO_SUFFIXES))}); an index of it is left as it is"
        )
    name = model_name(model)
    embedder: EmbeddingModel | None = None
    if not place.exists() or not any(place.iterdir()):
        # A model that cannot be loaded, or has no embeddings, must leave neither an empty folder nor a lock.
        embedder = load_model(model, device, width)
        place.mkdir(parents=True, exist_ok=True)
    with IndexLock(place, "crossalign index"):
        path = place / (REBUILD_FILE if rebuild else MANIFEST_FILE)
        # Read before the model is loaded: what is wrong here should be said at once.
        manifest = _present(path, photos, rebuild)
        embedder = embedder or load_model(model, device, width)
        fingerprint = embedder.fingerprint
        manifest = _matching(manifest, fingerprint, width, place, rebuild)
        opened = None if manifest is None else _open(place, manifest, found, rebuild)
        manifest, store, plan = opened or _start(path, photos, name, embedder, fingerprint, width, found)
        try:
            manifest = manifest.model_copy(update={"model": name, "photos": str(photos)})
            update = StoreUpdate(store, embedder, photos, plan, batch_size=batch_size)
            if not (plan.empty and manifest.complete):
                write_manifest(path, manifest.model_copy(update={"complete": False}))
                update.run(progress)
            count = store.count()
        finally:
            store.close()
        write_manifest(path, manifest.model_copy(update={"complete": True, "count": count}))
        if rebuild:
            path.replace(place / MANIFEST_FILE)
        remove_leftovers(place)
    return _summary(place, manifest, count, found, update)


def _present(path: Path, photos: Path, rebuild: bool) -> Manifest | None:
    """The description that this run continues, if there is one."""
    if not path.exists():
        return None
    try:
        manifest = read_manifest(path)
    except CrossAlignError:
        if rebuild:
            return None
        raise
    # A folder that is no longer where it was has been moved here; one that still is there is another folder.
    if manifest.photos == str(photos) or not Path(manifest.photos).is_dir():
        return manifest
    if rebuild:
        return None
    raise CrossAlignError(
        f"{path.parent}: holds the photos of {manifest.photos}; give another --out, or replace it: --rebuild"
    )


def _matching(
    manifest: Manifest | None, fingerprint: str, width: int | None, place: Path, rebuild: bool
) -> Manifest | None:
    """The description if it is of this model at this width."""
    if manifest is None or (manifest.fingerprint, manifest.width) == (fingerprint, width):
        return manifest
    if rebuild:
        return None
    if manifest.fingerprint == fingerprint:
        remedy = "leave --width out" if manifest.width is None else f"give --width {manifest.width}"
        raise CrossAlignError(
            f"{place}: holds {_told(manifest.width)}, asked for are {_told(width)}; {remedy}, or run the same command "
            "with --rebuild"
        )
    raise CrossAlignError(
        f"{place}: built with another model ({manifest.model or 'given as an object'}, "
        f"fingerprint {manifest.fingerprint[:12]}, this one is {fingerprint[:12]}); "
        "embeddings of two models cannot be mixed: run the same command with --rebuild"
    )


def _told(width: int | None) -> str:
    return "whole embeddings" if width is None else f"embeddings of width {width}"


def _open(
    place: Path, manifest: Manifest, found: Scan, rebuild: bool
) -> tuple[Manifest, EdgeStore, Plan] | None:
    """The store of a description and what to do to it; None where it is damaged and a rebuild can begin anew."""
    try:
        count = manifest.count if manifest.complete else None
        store = EdgeStore.open(place / manifest.store, manifest.dim, manifest.views, count=count)
        try:
            store.verify(store.count())
            return manifest, store, plan_update(store, found)
        except BaseException:
            with suppress(CrossAlignError):
                store.close()
            raise
    except CrossAlignError:
        if rebuild:
            return None
        raise


def _start(
    path: Path,
    photos: Path,
    name: str | None,
    model: EmbeddingModel,
    fingerprint: str,
    width: int | None,
    found: Scan,
) -> tuple[Manifest, EdgeStore, Plan]:
    """An empty store, its description, and what to do. The store comes first, so that no description is without."""
    _, views, dim = embed_images(model, [Image.new("RGB", (64, 64))]).shape
    folder = f"store-{secrets.token_hex(4)}"
    manifest = Manifest(
        model=name,
        fingerprint=fingerprint,
        dim=dim,
        width=width,
        views=views,
        photos=str(photos),
        store=folder,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    store = EdgeStore.create(path.parent / folder, dim, views)
    write_manifest(path, manifest)
    return manifest, store, plan_update(store, found)


def _summary(place: Path, manifest: Manifest, count: int, found: Scan, update: StoreUpdate) -> IndexSummary:
    counts = update.counts
    failures = tuple(found.failures + update.failures)
    touched = counts["added"] + counts["changed"] + counts["renamed"] + len(update.failures)
    return IndexSummary(
        index=str(place),
        folder=manifest.photos,
        model=manifest.model,
        fingerprint=manifest.fingerprint,
        photos=count,
        added=counts["added"],
        changed=counts["changed"],
        renamed=counts["renamed"],
        removed=counts["removed"],
        unchanged=len(found.files) - touched,
        failed=len(failures),
        failures=failures,
        width=manifest.width,
    )
