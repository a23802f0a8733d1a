"""What ``crossalign search`` does: find photos, find texts, or tell what an index holds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import typer
from PIL import Image

from crossalign.cli.notes import tell_fallback, tell_unknown_words
from crossalign.cli.run_options import listed, told_bytes
from crossalign.errors import CrossAlignError
from crossalign.evaluation.run_sources import short_name
from crossalign.files import used_bytes
from crossalign.search import (
    Comparison,
    Hit,
    PhotoReranker,
    SearchEngine,
    TextSearchEngine,
    contact_sheet,
    reranked,
    save_contact_sheet,
    text_sheet,
)
from crossalign.search.commands import index_command
from crossalign.search.manifest import Manifest

__all__ = ["Question", "Reranking", "find_photos", "find_texts", "tell_index"]

_NAMED = 5


@dataclass(frozen=True)
class Question:
    """What is looked for, and what becomes of the hits: the options that photos and texts share.

    Attributes:
        text: the query in words; ``None``: the picture.
        image: the file of the picture.
        picture: what is in it.
        model: where the index's model is now, if it has moved.
    """

    index: Path
    text: str | None
    image: Path | None
    picture: Image.Image | None
    k: int
    exact: bool
    sheet: Path | None
    model: str | None
    device: str
    as_json: bool

    @property
    def shown(self) -> Image.Image | str:
        """The query as a contact sheet shows it."""
        return self.text or "" if self.picture is None else self.picture

    @property
    def of_picture(self) -> str:
        """The end of a sheet's note."""
        return "" if self.image is None else f" · {self.image.name}"


@dataclass(frozen=True)
class Reranking:
    """A second model, and how many of the best photos it looks at: no fewer than are wanted."""

    name: str
    model: PhotoReranker
    top: int


@dataclass(frozen=True)
class Asked:
    """A query that an open index has understood, with what is to be told of both.

    Attributes:
        unfinished: what completes the index, where its last update was broken off.
    """

    question: Question
    query: np.ndarray
    way: Comparison
    holds: str
    count: int
    unknown: Sequence[str]
    unfinished: str | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Keep what a step takes."""
        begin = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - begin

    def tell(self) -> None:
        """Notes on standard error: words without a vector, another space, an unfinished index."""
        tell_unknown_words(self.unknown)
        tell_fallback(self.way, self.holds)
        if self.unfinished is not None:
            typer.echo(f"crossalign: {self.holds} may be missing: {self.unfinished}", err=True)

    def document(self, hits: Sequence[Any], of_kind: Mapping[str, Any]) -> dict[str, Any]:
        """All that ``--json`` prints.

        Args:
            of_kind: what only photos have.
        """
        question = self.question
        return {
            "index": str(question.index),
            "query": {"text": question.text} if question.text is not None else {"image": str(question.image)},
            "unknown_words": self.unknown,
            "k": question.k,
            "exact": question.exact,
            "holds": self.holds,
            "space": self.way.space,
            "score": "cosine" if self.way.cosine or self.way.space == "uni" else "inner product",
            **of_kind,
            self.holds: self.count,
            "complete": self.unfinished is None,
            "seconds": self.seconds,
            "hits": [hit.as_dict() for hit in hits],
            "sheet": None if question.sheet is None else str(question.sheet),
        }


def find_photos(
    question: Question, *, folder: str = "", reranking: Reranking | None = None, hubness: bool | None = None
) -> None:
    """Search an index of photos and print the hits.

    Args:
        folder: only photos below it; checked to be there.
        hubness: correct scores by the query bank; None: where the index has one and the query is words.

    Raises:
        CrossAlignError: an index without photos or without the bank that is asked for.
    """
    with SearchEngine.open(question.index, question.model, device=question.device) as engine:
        asked = _asked(engine, question)
        bank = engine.manifest.bank if question.text is not None and hubness is not False else None
        with asked.timed("search"):
            hits = engine.search(
                asked.query,
                question.k if reranking is None else reranking.top,
                exact=question.exact,
                folder=folder,
                cosine=asked.way.cosine,
                space=asked.way.space,
                hubness=bank is not None or bool(hubness),
            )
        photos = engine.photos
    asked.seconds["rerank"] = 0.0
    if reranking is not None:
        with asked.timed("rerank"):
            hits = reranked(hits, question.text or "", reranking.model, progress=not question.as_json)
    asked.tell()
    failed = [hit for hit in hits if hit.problem is not None]
    looked_at, hits = len(hits) - len(failed), hits[: question.k]
    told = None if reranking is None else _told_reranking(reranking, question, failed)
    if question.sheet is not None:
        note = f"{len(hits)} of {asked.count:,} photos of the folder {photos.name or photos}"
        note += (f" · only those in {folder}" if folder else "") + question.of_picture
        if reranking is not None:
            note += f" · best {looked_at} re-ranked by {short_name(reranking.name)}"
        save_contact_sheet(contact_sheet(hits, question.shown, note=note), question.sheet)
    if question.as_json:
        of_kind = {
            "hubness": None if bank is None else bank.model_dump(mode="json"),
            "rerank": told,
            "folder": folder,
        }
        _print_json(asked.document(hits, of_kind))
        return
    for hit in hits:
        trouble = "  (missing)" if hit.missing else "  (cannot be read)" if hit.problem is not None else ""
        score = f"{hit.score:8.4f}" if hit.problem is None else f"{'–':>8}"
        typer.echo(f"{hit.rank:>4}  {score}  {hit.file}{trouble}")
    _tell_sheet(question)


def find_texts(question: Question) -> None:
    """Search an index of texts and print the hits.

    Raises:
        CrossAlignError: an index without texts.
    """
    with TextSearchEngine.open(question.index, question.model, device=question.device) as engine:
        asked = _asked(engine, question)
        way = asked.way
        with asked.timed("search"):
            hits = engine.search(
                asked.query, question.k, exact=question.exact, cosine=way.cosine, space=way.space
            )
        source, split = Path(engine.manifest.source), engine.manifest.split
    asked.tell()
    if question.sheet is not None:
        note = f"{len(hits)} of {asked.count:,} texts of the {'collection' if source.is_dir() else 'file'} "
        note += source.name + ("" if split is None else f", split {split}") + question.of_picture
        save_contact_sheet(text_sheet(hits, question.shown, note=note), question.sheet)
    if question.as_json:
        _print_json(asked.document(hits, {}))
        return
    for hit in hits:
        places = ", ".join(hit.ids[:_NAMED]) + (", ..." if len(hit.ids) > _NAMED else "")
        typer.echo(f"{hit.rank:>4}  {hit.score:8.4f}  {hit.text}  ({places})")
    _tell_sheet(question)


def tell_index(index: Path, manifest: Manifest, as_json: bool) -> None:
    """Print what an index holds and what room it takes; the model is not loaded."""
    disk = used_bytes(index / manifest.store)
    if as_json:
        _print_json(
            manifest.model_dump(mode="json")
            | {"holds": manifest.holds, "vector_bytes": manifest.vector_bytes, "disk_bytes": disk}
        )
        return
    views = "" if manifest.views == 1 else f"{manifest.views} of "
    told = {
        "holds": f"{manifest.count:,} {manifest.holds} of {manifest.source}"
        + ("" if manifest.split is None else f", split {manifest.split}")
        + ("" if manifest.complete else "; the last update did not finish"),
        "model": f"{manifest.model or 'given as an object'}, fingerprint {manifest.fingerprint[:12]}",
        "embeddings": f"{views}width {manifest.dim}" + ("" if manifest.width is None else ", cut to it"),
        "uni-modal": "none" if manifest.uni is None else f"width {manifest.uni}",
        "query bank": "none"
        if manifest.bank is None
        else f"{manifest.bank.texts:,} texts of {manifest.bank.source}, temperature {manifest.bank.temperature:g}",
        "vectors": f"{told_bytes(manifest.vector_bytes)} in memory while it is open",
        "on disk": told_bytes(disk),
    }
    typer.echo(listed(told))


def _asked(engine: SearchEngine | TextSearchEngine, question: Question) -> Asked:
    """The question's embedding in the space in which the index answers it."""
    if not engine.count:
        raise CrossAlignError(
            f"{question.index}: the index holds no {engine.holds}; {_to_run(engine, question)}"
        )
    begin = time.perf_counter()
    way = engine.compared("text" if question.text is not None else "image")
    if question.text is not None:
        query = engine.encode_text(question.text, way.space)
    else:
        assert question.picture is not None
        query = engine.encode_image(question.picture, way.space)
    encoded = time.perf_counter()
    return Asked(
        question=question,
        query=query,
        way=way,
        holds=engine.holds,
        count=engine.count,
        unknown=engine.unknown_words(question.text or ""),
        unfinished=None if engine.complete else _to_run(engine, question),
        seconds={"encode": encoded - begin},
    )


def _to_run(engine: SearchEngine | TextSearchEngine, question: Question) -> str:
    """What brings an index up to date, as the end of a sentence."""
    command = index_command(engine.manifest, engine.place, model=question.model)
    return (
        f"run: {command}" if engine.complete else f"its last update did not finish; to go on, run: {command}"
    )


def _told_reranking(reranking: Reranking, question: Question, failed: Sequence[Hit]) -> dict[str, Any]:
    """Say which words and photos the second model made nothing of, and all that ``--json`` prints of it."""
    unknown = reranking.model.model.unknown_words(question.text or "")
    tell_unknown_words(unknown, f"{reranking.name} (--rerank)")
    if failed:
        named = "; ".join(f"{hit.file} ({hit.problem})" for hit in failed[:_NAMED])
        more = f"; and {len(failed) - _NAMED} more (--json lists all)" if len(failed) > _NAMED else ""
        typer.echo(f"crossalign: not re-ranked, {len(failed)} could not be read: {named}{more}", err=True)
    return {
        "model": reranking.name,
        "top": reranking.top,
        "unknown_words": unknown,
        "failures": [{"file": hit.file, "reason": hit.problem} for hit in failed],
    }


def _print_json(document: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(document, ensure_ascii=False))


def _tell_sheet(question: Question) -> None:
    if question.sheet is not None:
        typer.echo(f"sheet: {question.sheet}")
