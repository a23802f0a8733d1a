"""Everything that was measured of one model: what each part found, what was left out and why, and its folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossalign.errors import CrossAlignError
from crossalign.evaluation.results import RetrievalResult
from crossalign.files import read_json, write_json, write_text
from crossalign.provenance import code_state, machine, now, without_places

__all__ = ["DOCUMENT", "Measure", "Skipped", "SuiteResult", "check_suite_place"]

FORMAT = "crossalign-suite-result"
DOCUMENT, PAGE, RETRIEVAL = "suite.json", "report.html", "retrieval"
_VERSION = 1


@dataclass(frozen=True)
class Measure:
    """What one part found.

    Attributes:
        key, title: of the part.
        metrics: every number by name, recalls and correlations in percent.
        header, rows: the same as a table.
        note: what was measured on, and how to read it.
        details: more for machines.
    """

    key: str
    title: str
    metrics: dict[str, float]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"title": self.title, "note": self.note, "metrics": self.metrics, "details": self.details}


@dataclass(frozen=True)
class Skipped:
    """A part that was left out, and why."""

    title: str
    reason: str


@dataclass(frozen=True, eq=False)
class SuiteResult:
    """One model on everything its data allows.

    Attributes:
        name: of the model, as it was told.
        model: its fingerprint.
        trained_on: name of the collection it was trained on; None where that is not known.
        collection, split: what it was measured on; empty without one.
        measures, skipped: the parts.
        retrieval: the ranks behind the first part, for ``crossalign compare``.
        command: the command line that made the result.
        uni_modal: whether it has heads of their own for comparing within a modality.
    """

    name: str
    model: str
    trained_on: str | None
    collection: str
    split: str
    measures: tuple[Measure, ...]
    skipped: tuple[Skipped, ...]
    retrieval: RetrievalResult | None = None
    command: str = ""
    uni_modal: bool = False

    @property
    def transfer(self) -> bool | None:
        """Whether the model was trained on another collection; None where that is not known."""
        if self.trained_on is None or not self.collection:
            return None
        return self.trained_on != self.collection

    @property
    def metrics(self) -> dict[str, float]:
        """Every number by ``PART.METRIC``."""
        return {f"{part.key}.{name}": value for part in self.measures for name, value in part.metrics.items()}

    def to_dict(self) -> dict[str, Any]:
        """What ``suite.json`` tells."""
        return {
            "format": FORMAT,
            "format_version": _VERSION,
            "name": self.name,
            "model": self.model,
            "trained_on": self.trained_on,
            "transfer": self.transfer,
            "uni_modal_heads": self.uni_modal,
            "collection": self.collection,
            "split": self.split,
            "command": self.command,
            "date": now(),
            "code": code_state(),
            "machine": machine(),
            "parts": {part.key: without_places(part.to_dict()) for part in self.measures},
            "skipped": [
                {"title": part.title, "reason": without_places(part.reason)} for part in self.skipped
            ],
        }

    def save(self, folder: str | Path) -> None:
        """Write ``report.html``, ``retrieval/`` and at last ``suite.json``, replacing an old result.

        Raises:
            CrossAlignError: the folder holds anything else.
        """
        from crossalign.suite.report import suite_page

        folder = Path(folder)
        check_suite_place(folder)
        (folder / DOCUMENT).unlink(missing_ok=True)
        if self.retrieval is not None:
            self.retrieval.save(folder / RETRIEVAL, overwrite=True)
        write_text(folder / PAGE, suite_page(self))
        write_json(folder / DOCUMENT, self.to_dict())


def check_suite_place(folder: Path) -> None:
    """Refuse a place where a result would meet other things; nothing is touched.

    Raises:
        CrossAlignError: the place is a file, or a folder with anything but such a result in it.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CrossAlignError(f"{folder}: not a folder; choose another place (--out)")
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    foreign = [name for name in names if name not in (DOCUMENT, PAGE, RETRIEVAL)]
    if not foreign and (folder / DOCUMENT).is_file():
        content = read_json(folder / DOCUMENT, "remove it, or choose another folder (--out)")
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            foreign = [DOCUMENT]
    if foreign:
        raise CrossAlignError(
            f"{folder}: holds '{foreign[0]}', which is of no result; choose another folder (--out)"
        )
