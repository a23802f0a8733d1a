"""The folder of an index: what in it is ours, and what is left over."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from crossalign.errors import CrossAlignError
from crossalign.files import read_json
from crossalign.search.lock import LOCK_FILE, is_lock
from crossalign.search.manifest import KIND, MANIFEST_FILE, STORE_NAME, read_manifest

__all__ = ["REBUILD_FILE", "check_index", "check_place", "default_index", "remove_leftovers"]

# A rebuild grows beside the index under this description; renaming it to index.json is the swap.
REBUILD_FILE = "rebuild.json"


def default_index(folder: str | Path) -> Path:
    """Where the index of a photo folder goes if nothing else is said: beside it, as ``FOLDER.index``."""
    folder = Path(folder).resolve()
    return folder.with_name(f"{folder.name}.index")


def check_index(folder: Path) -> None:
    """Refuse to search what is no index, and say what may have been meant.

    Raises:
        CrossAlignError: a file, or a folder of other things, such as the photos themselves.
    """
    if folder.exists() and not folder.is_dir():
        raise CrossAlignError(f"{folder}: not a folder; give the folder of an index, such as photos.index")
    if not folder.is_dir() or (folder / MANIFEST_FILE).exists():
        return
    beside = default_index(folder)
    if (beside / MANIFEST_FILE).is_file():
        raise CrossAlignError(f"{folder}: not an index; did you mean {beside}?")
    if any(folder.iterdir()) and not _was_index(folder):
        raise CrossAlignError(
            f"{folder}: not an index ({MANIFEST_FILE} is missing); if these are photos, make one beside them: "
            f"crossalign index MODEL {folder}"
        )


def check_place(photos: Path, place: Path) -> None:
    """Refuse a place where an index would meet other things; nothing is touched.

    Args:
        photos: the photo folder.
        place: the folder of its index, which need not exist.

    Raises:
        CrossAlignError: no photo folder, or the place is no folder, the photo folder itself, or not an index's alone.
    """
    if not photos.is_dir():
        raise CrossAlignError(f"{photos}: no such folder of photos")
    if place == photos:
        raise CrossAlignError(f"{place}: the index cannot be the photo folder itself; give another --out")
    if place.exists():
        if not place.is_dir():
            raise CrossAlignError(f"{place}: a file is in the way of the index; give another --out")
        entries = sorted(place.iterdir())
        own = {LOCK_FILE, MANIFEST_FILE, REBUILD_FILE}
        other = [
            entry
            for entry in entries
            if entry.name not in own and not entry.name.startswith(".") and not _is_store(entry)
        ]
        if not other and not _was_index(place):
            other = entries
        if other:
            raise CrossAlignError(f"{place}: holds other things ('{other[0].name}'); give another --out")


def remove_leftovers(place: Path) -> None:
    """Delete stores that no description names: of runs killed while starting one, and of replaced indexes."""
    named: set[str] = set()
    for path in (place / MANIFEST_FILE, place / REBUILD_FILE):
        if path.exists():
            try:
                named.add(read_manifest(path).store)
            except CrossAlignError:
                # A damaged description may have named any of them.
                return
    for entry in place.iterdir():
        if _is_store(entry) and entry.name not in named:
            shutil.rmtree(entry)


def _is_store(entry: Path) -> bool:
    return re.fullmatch(STORE_NAME, entry.name) is not None and entry.is_dir() and not entry.is_symlink()


def _was_index(place: Path) -> bool:
    """Whether a folder has our lock or our description, whole or damaged: a name alone may be anyone's."""
    return is_lock(place / LOCK_FILE) or any(
        _is_description(place / name) for name in (MANIFEST_FILE, REBUILD_FILE)
    )


def _is_description(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        content = read_json(path)
    except CrossAlignError:
        return True
    return isinstance(content, dict) and content.get("kind") == KIND
