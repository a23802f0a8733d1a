"""Temporary names beside a target: claimed while their writer lives, cleared by the next one once it has died."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from pathlib import Path

__all__ = ["claim_temporary", "clear_orphans", "try_lock"]


def try_lock(handle: int) -> bool | None:
    """Whether this open file or folder is now locked for us, until it is closed or the process dies.

    False: another holds it. None: the file system has no such locks, as some network ones.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def claim_temporary(target: Path, *, folder: bool) -> tuple[Path, int]:
    """A new file or folder ``.NAME.xxxxxxxx.tmp`` beside ``target``, and its open handle, which holds its lock."""
    name = (".tmp", f".{target.name}.", str(target.parent))
    while True:
        if folder:
            path = Path(tempfile.mkdtemp(*name))
            handle = os.open(path, os.O_RDONLY)
        else:
            handle, created = tempfile.mkstemp(*name)
            path = Path(created)
        # Another writer that clears up may take it for an orphan before it is locked.
        if try_lock(handle) is not False and path.exists():
            return path, handle
        os.close(handle)


def clear_orphans(target: Path) -> None:
    """Remove what killed writers of ``target`` have left under temporary names."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}\.tmp")
    for entry in [path for path in target.parent.iterdir() if ours.fullmatch(path.name)]:
        try:
            handle = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if try_lock(handle):
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
        finally:
            os.close(handle)
