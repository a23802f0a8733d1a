"""Folders that are whole or absent: written beside their place, then swapped with what stands there."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from crossalign.errors import CrossAlignError
from crossalign.files import sync_path
from crossalign.temporary import claim_temporary, clear_orphans, try_lock

__all__ = ["atomic_folder", "restore_folder"]

# From Linux's fcntl.h and fs.h.
_HERE, _RENAME_EXCHANGE = -100, 2
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_SYNCED_AT_ONCE = 16


@contextmanager
def atomic_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that takes its place on success and is removed on failure.

    A kill or a power cut at any instant leaves the old folder or the new one; what it leaves besides, the next
    writer removes.

    Raises:
        CrossAlignError: ``path`` exists and ``overwrite`` is false, or it is no folder.
    """
    target = Path(path).resolve()
    restore_folder(target)
    if target.exists() and not overwrite:
        raise CrossAlignError(f"{path}: already exists; remove it or choose another place")
    if target.exists() and not target.is_dir():
        raise CrossAlignError(f"{path}: not a folder; choose another place")
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_orphans(target)
    _clear_aside(target)
    temporary, lock = claim_temporary(target, folder=True)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        _sync_tree(temporary)
        if not target.exists():
            temporary.rename(target)
        elif not _exchange(temporary, target):
            _replace(temporary, target)
        sync_path(target.parent)
    finally:
        # After an exchange this is the old folder.
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def restore_folder(path: str | Path) -> None:
    """Put a folder back that a killed writer had moved aside; without one, do nothing."""
    target = Path(path).resolve()
    aside = _aside(target)
    if target.exists() or not aside.is_dir():
        return
    # Whoever may not write here reads on, and is told that nothing is there.
    with suppress(OSError):
        lock = os.open(aside, os.O_RDONLY)
        try:
            # A writer that lives is about to put its new folder there.
            if try_lock(lock) is not False:
                aside.rename(target)
        finally:
            os.close(lock)


def _sync_tree(root: Path) -> None:
    """Make every file and name below a folder outlive a power cut."""
    paths = []
    for place, _, files in os.walk(root):
        paths += [path for name in files if not (path := Path(place, name)).is_symlink()]
        paths.append(Path(place))
    # At the same time: one after another, each of thousands of pictures would wait for the disk alone.
    with ThreadPoolExecutor(min(len(paths), _SYNCED_AT_ONCE)) as pool:
        for _ in pool.map(sync_path, paths):
            pass


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names at one instant; false where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in _CANNOT:
        return False
    raise OSError(error, os.strerror(error), str(other))


def _replace(temporary: Path, target: Path) -> None:
    """The same in two steps; :func:`restore_folder` mends what a kill between them leaves."""
    lock = os.open(target, os.O_RDONLY)
    try:
        try_lock(lock)
        target.rename(_aside(target))
        temporary.rename(target)
    finally:
        os.close(lock)
    _clear_aside(target)


def _clear_aside(target: Path) -> None:
    if target.exists():
        shutil.rmtree(_aside(target), ignore_errors=True)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")
