"""The folder of a demo: made, recognised, and never taken from anybody else."""

from __future__ import annotations

import shutil
from pathlib import Path

from crossalign.errors import CrossAlignError
from crossalign.files import write_json

__all__ = ["MARKER", "make_room"]

MARKER = "demo.json"
OWN = ("scenes", "run", "photos", "index", "searches", "report.html", MARKER)


def make_room(folder: Path, overwrite: bool) -> None:
    """An empty folder with the demo's mark in it; never delete anything that no demo has made."""
    if folder.exists() and not folder.is_dir():
        raise CrossAlignError(f"{folder}: not a folder; choose another place (--out)")
    entries = sorted(folder.iterdir()) if folder.exists() else []
    marked = (folder / MARKER).exists()
    foreign = [entry.name for entry in entries if not marked or not _of_a_demo(entry.name)]
    if foreign:
        raise CrossAlignError(
            f"{folder}: holds '{foreign[0]}', which no demo made; choose another folder (--out)"
        )
    if entries and not overwrite:
        raise CrossAlignError(
            f"{folder}: holds an earlier demo; replace it with --overwrite, or choose another (--out)"
        )
    # The mark goes last: what is left after an interruption is still a demo's.
    for entry in sorted(entries, key=lambda path: path.name == MARKER):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    write_json(folder / MARKER, {"finished": False})


def _of_a_demo(name: str) -> bool:
    """One of a demo's own names, or what a killed one left of it."""
    return name in OWN or (
        name.endswith((".tmp", ".old")) and any(name.startswith(f".{own}.") for own in OWN)
    )
