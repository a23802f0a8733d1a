"""Finding the photos of a folder."""

from __future__ import annotations

import os
import stat
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["NOT_A_FILE", "PHOTO_SUFFIXES", "Failure", "FileState", "Scan", "scan_photos"]

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
NOT_A_FILE = "not a file"


@dataclass(frozen=True)
class Failure:
    """A photo or folder that could not be read, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class FileState:
    """What tells cheaply whether a file has changed: bytes and time of modification in nanoseconds."""

    size: int
    mtime_ns: int


@dataclass
class Scan:
    """Photos by path relative to the folder (posix), failures, and folders that could not be listed."""

    files: dict[str, FileState] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)

    def covers(self, file: str) -> bool:
        """Whether the scan could have seen ``file``: false below a folder that could not be listed."""
        return not any(file.startswith(folder) for folder in self.unlisted)


def scan_photos(folder: str | Path, *, skip: str | Path | None = None) -> Scan:
    """Find photos in a folder and all folders below it, by suffix.

    Hidden files and folders are passed over. Links are followed; a folder reached twice is listed once, under
    its real place where that is within ``folder``, so that circles of links end.

    Args:
        folder: where to look.
        skip: a folder to pass over, wherever it is met.
    """
    root = Path(folder)
    scan = Scan()
    seen: set[tuple[int, int]] = set()
    if skip is not None and Path(skip).is_dir():
        seen.add(_identity(Path(skip).stat()))
    folders: deque[str] = deque([""])
    links: deque[str] = deque()
    while folders or links:
        # Real folders first: what a link leads to keeps its own name.
        here = folders.popleft() if folders else links.popleft()
        try:
            identity = _identity((root / here).stat())
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(root / here) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            scan.unlisted.append(here)
            scan.failures.append(Failure(here or str(root), f"folder cannot be listed: {error.strerror}"))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                (links if entry.is_symlink() else folders).append(f"{here}{entry.name}/")
            elif Path(entry.name).suffix.lower() in PHOTO_SUFFIXES:
                _add(scan, f"{here}{entry.name}", entry)
    return scan


def _add(scan: Scan, file: str, entry: os.DirEntry[str]) -> None:
    try:
        file.encode()
        state = entry.stat()
    except UnicodeEncodeError:
        readable = os.fsencode(file).decode(errors="replace")
        scan.failures.append(Failure(readable, "file name is not UTF-8: rename it"))
    except OSError as error:
        scan.failures.append(Failure(file, str(error.strerror)))
    else:
        if stat.S_ISREG(state.st_mode):
            scan.files[file] = FileState(state.st_size, state.st_mtime_ns)
        else:
            # A pipe would be waited for without end.
            scan.failures.append(Failure(file, NOT_A_FILE))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads to itself.
        return False


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino
