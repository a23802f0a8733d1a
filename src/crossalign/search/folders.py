"""Folders within a photo folder, as searches are confined to one."""

from __future__ import annotations

from pathlib import Path

from crossalign.errors import CrossAlignError
from crossalign.search.edge import EdgeStore
from crossalign.search.lock import IndexLock
from crossalign.search.manifest import MANIFEST_FILE, read_manifest

__all__ = ["check_folder", "folder_prefix"]


def folder_prefix(folder: str) -> str:
    """What the ids of a folder's photos begin with; empty for the whole photo folder."""
    within = folder.strip("/")
    return f"{within}/" if within not in ("", ".") else ""


def check_folder(index: str | Path, folder: str, *, wait: float = 2.0) -> None:
    """Refuse a folder that an index has no photos of; no model is needed to tell.

    Args:
        index: folder of an index of photos.
        folder: relative to the photo folder.
        wait: seconds to wait for another process that has the index open.

    Raises:
        CrossAlignError: no photos of that folder, though there are others; or an index that cannot be opened.
    """
    prefix = folder_prefix(folder)
    if not prefix:
        return
    place = Path(index).resolve()
    with IndexLock(place, "crossalign search", wait=wait):
        manifest = read_manifest(place / MANIFEST_FILE)
        store = EdgeStore.open(
            place / manifest.store,
            manifest.stored_dim,
            manifest.views,
            uni=manifest.uni,
            count=manifest.count if manifest.complete else None,
        )
        try:
            found = not store.count() or store.has(prefix)
        finally:
            store.close()
    if not found:
        raise CrossAlignError(
            f"--folder {folder}: the index has no photos in it; give a folder within {manifest.photos}, "
            "or run 'crossalign index' again if it is new"
        )
