"""What data the suite's numbers of a study come from: gathered from its records, told below its table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crossalign.study.records import RunRecord
from crossalign.study.suite_data import KINDS, kind_of

__all__ = ["mixed_kinds", "suite_notes", "suite_sources"]


def suite_sources(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Every data that runs were measured on, with the runs' keys; ``sha256`` is None for records that do not say."""
    sources: dict[tuple[str, str | None], dict[str, Any]] = {}
    for record in records:
        for kind in KINDS:
            known = _known(record, kind)
            if known is not None:
                source = sources.setdefault((kind, known.get("sha256")), {"kind": kind, **known, "runs": []})
                source["runs"].append(f"{record.variant}-seed{record.seed}")
    return [sources[key] for key in sorted(sources, key=lambda key: (key[0], key[1] or ""))]


def mixed_kinds(records: Sequence[RunRecord]) -> set[str]:
    """The kinds of data that differ between these records: a mean over them would be of nothing."""
    told = {kind: {(_known(record, kind) or {}).get("sha256") for record in records} for kind in KINDS}
    return {kind for kind, sums in told.items() if len(sums - {None}) > 1}


def suite_notes(summary: Mapping[str, Any]) -> Iterator[str]:
    """Lines about the data behind the suite's numbers; the shown numbers alone count."""
    shown = {kind_of(name) for name in summary["study"]["numbers"]}
    sources = [source for source in summary.get("suite_data", ()) if source["kind"] in shown]
    for kind in KINDS:
        known = [source for source in sources if source["kind"] == kind and source["sha256"] is not None]
        unknown = [source for source in sources if source["kind"] == kind and source["sha256"] is None]
        if len(known) == 1:
            yield f"{kind}: measured on {_told(known[0])}"
        elif known:
            places = "; ".join(f"{_told(source)} for {', '.join(source['runs'])}" for source in known)
            yield (
                f"{kind}: measured on different data, so its numbers cannot be compared, and a variant with several "
                f"has no mean: {places}"
            )
        for source in unknown:
            yield f"{kind}: the records of {', '.join(source['runs'])} do not say what it was measured on"


def _known(record: RunRecord, kind: str) -> dict[str, Any] | None:
    """What a record says about the data of a kind; None where it has no number of it."""
    outcome = record.outcome
    if outcome is None or not any(kind_of(name) == kind for name in outcome.suite or {}):
        return None
    data = (outcome.suite_data or {}).get(kind)
    return {"sha256": None} if data is None else data.model_dump(mode="json")


def _told(source: Mapping[str, Any]) -> str:
    return f"{source['name']}: {', '.join(source['sets'])} (SHA-256 {source['sha256'][:8]})"
