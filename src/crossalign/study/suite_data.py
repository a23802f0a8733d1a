"""What data the numbers of a run's suite were measured on: names and checksums, no places of one machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from crossalign.study.settings import SuiteSettings
from crossalign.suite.further import FurtherData

__all__ = ["KINDS", "SuiteData", "described_data", "kind_of", "lacking", "named_data"]

KINDS = {"sts": "sts.", "judgements": "judgements_", "cxc": "cxc_", "classes": "classes_"}
"""How the numbers begin that each kind of further data gives; all others are of the collection."""


class SuiteData(BaseModel):
    """Further data that a suite was given.

    Attributes:
        name: of its folder, or of several.
        sets: the parts that were found in it.
        sha256: of what was read: sentences, items and judgements; of photos with classes, file names, sizes,
            classes and roles.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sets: tuple[str, ...]
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}: {', '.join(self.sets)} ({self.sha256[:8]})"


def named_data(suite: SuiteSettings, split: str) -> dict[str, SuiteData]:
    """The data that ``suite`` names, by kind.

    Args:
        split: of Crisscrossed Captions.

    Raises:
        CrossAlignError: a folder that is not there, or is damaged.
    """
    return described_data(suite, FurtherData.read(split, **suite.model_dump()))


def described_data(suite: SuiteSettings, read: FurtherData) -> dict[str, SuiteData]:
    """The same of data that has been read from where ``suite`` says."""
    found: dict[str, SuiteData] = {}
    if suite.sts is not None:
        assert read.sts is not None
        pairs = [[n, p.name, p.first, p.second, p.judgement] for n, parts in read.sts.items() for p in parts]
        found["sts"] = _data([suite.sts], list(read.sts), pairs)
    if suite.judgements is not None:
        assert read.judgements is not None
        rows = [
            [entry.name, entry.images, entry.captions, entry.ratings.tolist()] for entry in read.judgements
        ]
        found["judgements"] = _data([suite.judgements], [entry.name for entry in read.judgements], rows)
    if suite.cxc is not None:
        assert read.cxc is not None
        columns = [[p.name, p.first.tolist(), p.second.tolist(), p.judgement.tolist()] for p in read.cxc]
        found["cxc"] = _data([suite.cxc], [part.name for part in read.cxc], columns)
    if suite.classes:
        # Names and sizes stand for the photos themselves, which may be many gigabytes.
        photos = [
            [
                [[path.name, path.stat().st_size] for path in entry.paths],
                entry.label.tolist(),
                entry.query.tolist(),
                entry.gallery.tolist(),
            ]
            for entry in read.classes
        ]
        found["classes"] = _data(suite.classes, [entry.name for entry in read.classes], photos)
    return found


def kind_of(number: str) -> str | None:
    """The kind of further data that a number of the suite comes from; None: the collection."""
    return next((kind for kind, start in KINDS.items() if number.startswith(start)), None)


def lacking(
    asked: Mapping[str, SuiteData], suite: Mapping[str, float] | None, data: Mapping[str, SuiteData] | None
) -> Iterator[str]:
    """What a record lacks of the suite that is asked for, in words.

    Args:
        asked: data that is named now.
        suite, data: of the record; without ``data`` it does not say what it was measured on.
    """
    if suite is None:
        yield "all numbers of the suite"
        return
    for kind, wanted in asked.items():
        known = (data or {}).get(kind)
        if known is None and not any(kind_of(number) == kind for number in suite):
            yield kind
        elif known is None:
            yield f"{kind} on known data"
        elif known.sha256 != wanted.sha256:
            yield f"{kind} on {wanted} in place of {known}"


def _data(places: Sequence[str], sets: Sequence[str], content: Any) -> SuiteData:
    digest = hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    names = ", ".join(Path(place).resolve().name for place in places)
    return SuiteData(name=names, sets=tuple(sets), sha256=digest.hexdigest())
