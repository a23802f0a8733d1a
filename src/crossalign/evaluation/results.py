"""The result of one evaluation: its metrics, the ranks behind them, and its folder on disk."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from crossalign.errors import CrossAlignError
from crossalign.evaluation.metrics import RankTable
from crossalign.evaluation.result_folder import DOCUMENT, FORMAT, RANKS, result_folder
from crossalign.files import atomic_path, file_digest, read_json, write_json

__all__ = [
    "Averaging",
    "EnsembleMember",
    "HubnessRecord",
    "Reranking",
    "ResultSubject",
    "RetrievalResult",
    "ids_digest",
    "write_ranks",
]

_VERSION = 1


def ids_digest(ids: Sequence[str]) -> str:
    """SHA-256 over ids in their order, hexadecimal: equal for equal lists only."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Protocol(_Part):
    folds: int
    ks: tuple[int, ...]


class _Counts(_Part):
    images: int
    captions: int


class _Bootstrap(_Part):
    confidence: float
    resamples: int
    seed: int


class _Digests(_Part):
    images: str | None
    captions: str | None


class _RanksFile(_Part):
    file: Literal["ranks.npz"]
    sha256: str


class Reranking(_Part):
    """What put the best of each query into a new order.

    Attributes:
        model: fingerprint of the model that did.
        top: how many of each query.
        name: the last parts of its path, as they were told; None in a result of an older version.
    """

    model: str
    top: int
    name: str | None = None

    def told(self, images: int, captions: int) -> str:
        """In words, such as ``best 50 re-ranked by runs/scan``.

        Args:
            images, captions: in a gallery, which may be fewer than asked for.
        """
        best = f"best {self.top}"
        if self.top >= captions:
            best = f"all {images} images and {captions} captions"
        elif self.top >= images:
            best = f"all {images} images, {best} captions"
        return f"{best} re-ranked by {self.name or f'model {self.model[:12]}'}"


class EnsembleMember(_Part):
    """One of several models whose scores were averaged: its fingerprint, and the last parts of its path."""

    model: str
    name: str


class Averaging(_Part):
    """Several models whose scores were averaged, raw or standardised."""

    scale: Literal["raw", "standardised"]
    members: tuple[EnsembleMember, ...]

    def told(self) -> str:
        """In words, such as ``mean of runs/a and runs/b``."""
        mean = "mean" if self.scale == "raw" else "standardised mean"
        return f"{mean} of {' and '.join(member.name for member in self.members)}"


class HubnessRecord(_Part):
    """How scores were corrected for hubs, see :class:`~crossalign.evaluation.hubness.CorrectedGallery`.

    Attributes:
        method: by name.
        temperature: of its softmax.
        transductive: whether it saw all test queries together, so that each one's rank depends on the others.
        bank: the split whose captions and images are the bank of queries, where there is one.
        bank_captions, bank_images: how many.
    """

    method: str
    temperature: float
    transductive: bool
    bank: str | None = None
    bank_captions: int = 0
    bank_images: int = 0

    def told(self) -> str:
        """In words."""
        words = f"hubness corrected by {self.method} (temperature {self.temperature:g}), "
        if self.transductive:
            return words + "transductive: with all test queries at once"
        return words + f"bank: {self.bank_captions} captions and {self.bank_images} images of '{self.bank}'"


class _Document(_Part):
    """What results.json holds."""

    format: Literal["crossalign-retrieval-result"]
    format_version: Literal[1]
    collection: str
    split: str
    model: str
    trained_on: str | None = None
    width: int | None = None
    reranking: Reranking | None = None
    ensemble: Averaging | None = None
    hubness: HubnessRecord | None = None
    command: str
    protocol: _Protocol
    counts: _Counts
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    bootstrap: _Bootstrap
    digests: _Digests
    ranks: _RanksFile


@dataclass(frozen=True, kw_only=True)
class ResultSubject:
    """What a result is about: the record that goes with its numbers.

    Attributes:
        collection, split: what was evaluated, by name; results of different ones are never compared.
        model: the model's fingerprint; of an ensemble, one over the members'.
        trained_on: name of the collection that the model was trained on; None where that is not known.
        width: that the embeddings were cut to; None where all of them was compared.
        reranking: the model that put the best into a new order, if one did.
        ensemble: the models whose scores were averaged, where there were several.
        hubness: how the scores were corrected for hubs, if they were.
        command: the command line that made the result.
        image_digest, caption_digest: ``ids_digest`` of the ids in their order, where they are known; they tell equal
            splits from others.
    """

    collection: str = ""
    split: str = ""
    model: str = ""
    trained_on: str | None = None
    width: int | None = None
    reranking: Reranking | None = None
    ensemble: Averaging | None = None
    hubness: HubnessRecord | None = None
    command: str = ""
    image_digest: str | None = None
    caption_digest: str | None = None


@dataclass(frozen=True, eq=False)
class RetrievalResult(ResultSubject):
    """One evaluation of one model on one split.

    Attributes:
        table: the ranks of all queries and the protocol.
        intervals: for every metric the ends of its bootstrap interval over images.
        confidence, resamples, seed: of the bootstrap.
        source: where the result was read from; not saved.
    """

    table: RankTable
    intervals: dict[str, tuple[float, float]]
    confidence: float
    resamples: int
    seed: int
    source: str = ""

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Every metric by name: recalls in percent, median and mean ranks, ``rsum``."""
        return self.table.metrics()

    @property
    def protocol(self) -> str:
        """The protocol in words: ``full``, or ``mean of 5 folds``."""
        return "full" if self.table.folds == 1 else f"mean of {self.table.folds} folds"

    @property
    def transfer(self) -> bool | None:
        """Whether the model was trained on another collection; None where that is not known."""
        return None if self.trained_on is None else self.trained_on != self.collection

    @property
    def reranked(self) -> str:
        """What a second model did, in words; empty without one."""
        if self.reranking is None:
            return ""
        size = len(self.table.i2t) // self.table.folds
        captions = np.bincount(self.table.image_of_text // size)
        return self.reranking.told(size, int(captions.max()))

    @property
    def corrected(self) -> str:
        """How scores were corrected for hubs, in words; empty where they were not."""
        return "" if self.hubness is None else self.hubness.told()

    def to_dict(self) -> dict[str, Any]:
        """What ``results.json`` tells, for machines, less the file of ranks."""
        return {
            "format": FORMAT,
            "format_version": _VERSION,
            "collection": self.collection,
            "split": self.split,
            "model": self.model,
            **({} if self.trained_on is None else {"trained_on": self.trained_on}),
            **({} if self.width is None else {"width": self.width}),
            **({} if self.reranking is None else {"reranking": self.reranking.model_dump(exclude_none=True)}),
            **({} if self.ensemble is None else {"ensemble": self.ensemble.model_dump(mode="json")}),
            **({} if self.hubness is None else {"hubness": self.hubness.model_dump(exclude_none=True)}),
            "command": self.command,
            "protocol": {"folds": self.table.folds, "ks": list(self.table.ks)},
            "counts": {"images": len(self.table.i2t), "captions": len(self.table.t2i)},
            "metrics": self.metrics,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "bootstrap": {"confidence": self.confidence, "resamples": self.resamples, "seed": self.seed},
            "digests": {"images": self.image_digest, "captions": self.caption_digest},
        }

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write ``ranks.npz`` and then ``results.json`` into ``folder``; the latter's presence means a whole
        result.

        Raises:
            CrossAlignError: the folder holds a result and ``overwrite`` is false.
        """
        folder = Path(folder)
        document, ranks = folder / DOCUMENT, folder / RANKS
        if document.exists() and not overwrite:
            raise CrossAlignError(
                f"{document}: already exists; remove it, allow overwriting or choose another folder"
            )
        document.unlink(missing_ok=True)
        checksum = write_ranks(ranks, self.table)
        write_json(document, self.to_dict() | {"ranks": {"file": ranks.name, "sha256": checksum}})

    @classmethod
    def load(cls, path: str | Path) -> RetrievalResult:
        """Read a result from its folder, or from the ``results.json`` in it.

        Raises:
            CrossAlignError: nothing there, another format or version, or a file that is damaged.
        """
        path = Path(path)
        folder = result_folder(path)
        document = folder / DOCUMENT
        if not document.exists():
            near = (
                sorted(folder.glob(f"{place}/{DOCUMENT}")) for place in ("results/test", "*", "results/*")
            )
            found = next(chain.from_iterable(near), None)
            remedy = (
                "run 'crossalign evaluate' to make one" if found is None else f"did you mean {found.parent}?"
            )
            raise CrossAlignError(f"{folder}: holds no results.json; {remedy}")
        return cls.from_document(
            read_json(document, "evaluate again"), document, folder / RANKS, source=str(path)
        )

    @classmethod
    def from_document(
        cls, content: Any, place: str | Path, ranks: str | Path, *, source: str = ""
    ) -> RetrievalResult:
        """Rebuild a result from what ``results.json`` holds and a file of ranks.

        Args:
            content: as ``to_dict`` gives it, with ``ranks`` as ``save`` writes it.
            place: where the content comes from, for messages.
            ranks: the file of ranks, by whatever name.

        Raises:
            CrossAlignError: another format or version, or a file that is missing or damaged.
        """
        document = _check_document(content, Path(place))
        return cls(
            table=_read_ranks(Path(ranks), document, Path(place).name),
            intervals=document.intervals,
            confidence=document.bootstrap.confidence,
            resamples=document.bootstrap.resamples,
            seed=document.bootstrap.seed,
            collection=document.collection,
            split=document.split,
            model=document.model,
            trained_on=document.trained_on,
            width=document.width,
            reranking=document.reranking,
            ensemble=document.ensemble,
            hubness=document.hubness,
            command=document.command,
            image_digest=document.digests.images,
            caption_digest=document.digests.captions,
            source=source or str(place),
        )


def _check_document(content: Any, path: Path) -> _Document:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CrossAlignError(
            f"{path}: not a retrieval result of crossalign; pass a folder that 'evaluate' wrote"
        )
    if content.get("format_version") != _VERSION:
        raise CrossAlignError(
            f"{path}: format version {content.get('format_version')!r}, this crossalign reads {_VERSION};"
            " evaluate again or use the version that wrote it"
        )
    try:
        return _Document.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CrossAlignError(f"{path}: damaged at '{place}' ({first['msg']}); evaluate again") from None


def write_ranks(path: str | Path, table: RankTable, *, compressed: bool = False) -> str:
    """Write a file of ranks, whole or not at all; returns its SHA-256.

    With ``compressed`` it takes a fraction of the space and a little longer.
    """
    arrays: dict[str, Any] = {"i2t": table.i2t, "t2i": table.t2i, "image_of_text": table.image_of_text}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if compressed:
            narrow = {
                name: values.astype(np.min_scalar_type(values.max())) for name, values in arrays.items()
            }
            np.savez_compressed(file, **narrow)
        else:
            np.savez(file, **arrays)
    return file_digest(path)


def _read_ranks(path: Path, document: _Document, told: str) -> RankTable:
    if not path.exists():
        raise CrossAlignError(f"{path}: no such file, but {told} beside it needs it; evaluate again")
    if file_digest(path) != document.ranks.sha256:
        raise CrossAlignError(f"{path}: damaged, its checksum is not the one in {told}; evaluate again")
    counts, protocol = document.counts, document.protocol
    try:
        with np.load(path, allow_pickle=False) as arrays:
            i2t, t2i, owner = (
                arrays[name].astype(np.int64, casting="safe") for name in ("i2t", "t2i", "image_of_text")
            )
        table = RankTable(i2t, t2i, owner, protocol.folds, protocol.ks)
        whole = (len(i2t), len(t2i)) == (counts.images, counts.captions) and _agree(
            table.metrics(), document.metrics
        )
        whole = whole and set(document.intervals) == set(table.names)
    except (OSError, ValueError, TypeError, KeyError, BadZipFile, CrossAlignError):
        whole = False
    if not whole:
        raise CrossAlignError(f"{path}: does not fit {told} beside it; evaluate again")
    return table


def _agree(computed: dict[str, float], written: dict[str, float]) -> bool:
    """Whether metrics are the same but for last digits, which depend on the machine's order of summation."""
    return set(computed) == set(written) and all(
        math.isclose(computed[name], written[name], rel_tol=1e-9, abs_tol=1e-9) for name in computed
    )
