"""Files that are whole or absent: write to a temporary name, flush, rename."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossalign.errors import CrossAlignError
from crossalign.temporary import claim_temporary, clear_orphans

__all__ = ["atomic_path", "file_digest", "read_json", "sync_path", "used_bytes", "write_json", "write_text"]


def sync_path(path: Path) -> None:
    """Make the bytes of a file, or the names in a folder, outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed and renamed, on failure removed."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_orphans(target)
    temporary, lock = claim_temporary(target, folder=False)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp creates files readable by their owner only; a result is an ordinary file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
        sync_path(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(lock)


def used_bytes(folder: str | Path) -> int:
    """Room that the files in a folder take on the disk; holes of sparse files take none.

    Counted in blocks (of 512 bytes, POSIX) where the system tells them, else by length.
    """
    found = (path.stat() for path in Path(folder).rglob("*") if path.is_file())
    return sum(512 * state.st_blocks if hasattr(state, "st_blocks") else state.st_size for state in found)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, remedy: str = "") -> Any:
    """Read a JSON file.

    Args:
        remedy: what to do about a file that is damaged, for the message.

    Raises:
        CrossAlignError: the file is missing, not UTF-8 or not JSON; the message names the file and the line.
    """
    path = Path(path)
    then = f"; {remedy}" if remedy else ""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CrossAlignError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise CrossAlignError(
            f"{path}: not UTF-8 (byte {error.start}){then or '; save it as UTF-8'}"
        ) from None
    except json.JSONDecodeError as error:
        raise CrossAlignError(f"{path}: not valid JSON (line {error.lineno}: {error.msg}){then}") from None


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
