"""What a study leaves to be read: study.json, table.md and study.png, written anew after every run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crossalign.errors import CrossAlignError
from crossalign.files import write_json, write_text
from crossalign.lock import FileLock
from crossalign.study.plot import draw_study
from crossalign.study.settings import StudySettings
from crossalign.study.summary import summarize
from crossalign.study.table import study_page

__all__ = ["write_report"]

PICTURE = "study.png"
PATIENCE = 600.0


def write_report(
    study: StudySettings,
    folder: Path,
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Rewrite the three files from the records below ``folder``; returns what ``study.json`` holds.

    Runners side by side take turns, so that none overwrites a newer report with an older one.

    Args:
        seeds: asked for, beside those that have records.
        tell: takes a line where there can be no picture.

    Raises:
        CrossAlignError: a damaged record, or another runner that writes its report for ten minutes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock", "crossalign study, report")
    except OSError as error:
        raise CrossAlignError(
            f"{folder}: cannot be written ({error.strerror}); choose another --out"
        ) from None
    with lock:
        if not lock.acquire(PATIENCE):
            raise CrossAlignError(f"{folder}: its report is being written by {lock.holder()}; stop that one")
        summary = summarize(study, folder, seeds, overrides)
        picture = None
        if find_spec("matplotlib") is None:
            tell("no study.png: drawing needs matplotlib; run: pip install 'crossalign[report]'")
        else:
            picture = PICTURE
            draw_study(summary, folder / PICTURE)
        write_text(folder / "table.md", study_page(summary, picture=picture))
        write_json(folder / "study.json", summary)
    return summary
