"""The folder of a result: what in it is ours, so that nothing else is written over."""

from __future__ import annotations

from pathlib import Path

from crossalign.errors import CrossAlignError
from crossalign.files import read_json

__all__ = ["DOCUMENT", "FORMAT", "GROUNDING", "RANKS", "check_result_place", "result_folder"]

FORMAT = "crossalign-retrieval-result"
DOCUMENT, RANKS, GROUNDING = "results.json", "ranks.npz", "grounding.json"


def result_folder(path: Path) -> Path:
    """The folder of a result that may be named by the ``results.json`` in it."""
    return path.parent if path.name == DOCUMENT else path


def check_result_place(folder: Path) -> None:
    """Refuse a place where a result would meet other things; nothing is touched.

    Raises:
        CrossAlignError: the place is a file, or a folder with anything but a result in it.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CrossAlignError(f"{folder}: not a folder; choose another place (--out)")
    # A leading dot: what a killed writer has left, or what a file manager has put there.
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    foreign = [name for name in names if name not in (DOCUMENT, RANKS, GROUNDING)]
    if not foreign and _is_of_others(folder / DOCUMENT):
        foreign = [DOCUMENT]
    if foreign:
        raise CrossAlignError(
            f"{folder}: holds '{foreign[0]}', which is of no result; choose another folder (--out)"
        )


def _is_of_others(document: Path) -> bool:
    """Whether the document is another program's: its name is a common one. A damaged one counts as ours."""
    if not document.is_file():
        return document.exists()
    try:
        content = read_json(document)
    except CrossAlignError:
        return False
    return not isinstance(content, dict) or content.get("format") != FORMAT
