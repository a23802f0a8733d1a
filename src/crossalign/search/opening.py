"""What is common to every index run: the description, the store and the model, found fitting or begun anew."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from crossalign.errors import CrossAlignError
from crossalign.search.bank import BankEntry, QueryBank
from crossalign.search.edge import EdgeStore
from crossalign.search.manifest import Manifest, read_manifest, write_manifest
from crossalign.search.models import Embedded, EmbeddingModel, embed_images, embed_texts, uni_width

__all__ = ["Embedder", "Wanted", "fitting", "new_store", "open_store", "present"]


T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What an index is asked to be.

    Attributes:
        photos: the photo folder, absolute; empty for an index of texts.
        texts: the file or collection of texts, absolute; None for an index of photos.
        split: of a collection.
        width: that embeddings are cut to.
        bank: the query bank asked for; None: none, or the one that the index has.
        bank_texts: its texts.
    """

    photos: str = ""
    texts: str | None = None
    split: str | None = None
    width: int | None = None
    bank: BankEntry | None = None
    bank_texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Embedder:
    """A model together with what an index stores of its embeddings."""

    model: EmbeddingModel
    uni: bool
    bank: QueryBank | None = None

    def images(self, images: list[Image.Image]) -> Embedded:
        """Of pictures, as they are stored."""
        found = embed_images(self.model, images, uni=self.uni)
        return found if self.bank is None else Embedded(self.bank.extended(found.cross), found.uni)

    def texts(self, texts: list[str]) -> Embedded:
        """Of texts, as they are stored."""
        return embed_texts(self.model, texts, uni=self.uni)


def present(path: Path, wanted: Wanted, rebuild: bool) -> Manifest | None:
    """The description that this run continues, if there is one."""
    if not path.exists():
        return None
    try:
        manifest = read_manifest(path)
    except CrossAlignError:
        if rebuild:
            return None
        raise
    given = wanted.photos or wanted.texts or ""
    if manifest.holds == ("photos" if wanted.texts is None else "texts"):
        # What is no longer where it was has been moved here; what still is there is something else.
        same = manifest.source == given or not Path(manifest.source).exists()
        if same and manifest.split == wanted.split:
            return manifest
    if rebuild:
        return None
    part = "" if manifest.split is None else f" (split {manifest.split})"
    raise CrossAlignError(
        f"{path.parent}: holds the {manifest.holds} of {manifest.source}{part}; give another --out, or replace it: "
        "--rebuild"
    )


def fitting(
    manifest: Manifest | None, fingerprint: str, wanted: Wanted, place: Path, rebuild: bool
) -> Manifest | None:
    """The description if it is of this model at this width, with this bank."""
    if manifest is None:
        return None
    same = (manifest.fingerprint, manifest.width) == (fingerprint, wanted.width)
    if same and (manifest.bank == wanted.bank or (wanted.bank is None and not rebuild)):
        return manifest
    if rebuild:
        return None
    if same:
        has = "no query bank" if manifest.bank is None else f"another query bank ({manifest.bank.source})"
        raise CrossAlignError(f"{place}: has {has}; leave --bank out, or run the same command with --rebuild")
    if manifest.fingerprint == fingerprint:
        remedy = "leave --width out" if manifest.width is None else f"give --width {manifest.width}"
        raise CrossAlignError(
            f"{place}: holds {_told(manifest.width)}, asked for are {_told(wanted.width)}; {remedy}, or run the same "
            "command with --rebuild"
        )
    raise CrossAlignError(
        f"{place}: built with another model ({manifest.model or 'given as an object'}, "
        f"fingerprint {manifest.fingerprint[:12]}, this one is {fingerprint[:12]}); "
        "embeddings of two models cannot be mixed: run the same command with --rebuild"
    )


def _told(width: int | None) -> str:
    return "whole embeddings" if width is None else f"embeddings of width {width}"


def open_store(
    place: Path, manifest: Manifest, model: EmbeddingModel, rebuild: bool, read: Callable[[EdgeStore], T]
) -> tuple[Manifest, EdgeStore, Embedder, T] | None:
    """The store of a description, every vector of it found, and what ``read`` gives; None where it is damaged and can
    be begun anew."""
    try:
        count = manifest.count if manifest.complete else None
        folder = place / manifest.store
        bank = None if manifest.bank is None else QueryBank.load(folder)
        store = EdgeStore.open(folder, manifest.stored_dim, manifest.views, uni=manifest.uni, count=count)
        try:
            store.verify(store.count())
            return manifest, store, Embedder(model, manifest.uni is not None, bank), read(store)
        except BaseException:
            with suppress(CrossAlignError):
                store.close()
            raise
    except CrossAlignError:
        if rebuild:
            return None
        raise


def new_store(
    path: Path,
    name: str | None,
    model: EmbeddingModel,
    fingerprint: str,
    wanted: Wanted,
    read: Callable[[EdgeStore], T],
) -> tuple[Manifest, EdgeStore, Embedder, T]:
    """As :func:`open_store`, of an empty store, which comes before its description: none is without."""
    alone = uni_width(model)
    _, views, dim = _shape(model, wanted)
    folder = f"store-{secrets.token_hex(4)}"
    manifest = Manifest(
        model=name,
        fingerprint=fingerprint,
        dim=dim,
        width=wanted.width,
        views=views,
        uni=alone,
        photos=wanted.photos,
        texts=wanted.texts,
        split=wanted.split,
        bank=wanted.bank,
        store=folder,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    bank = None
    if wanted.bank is not None:
        bank = QueryBank.of_texts(model, wanted.bank_texts, wanted.bank.temperature)
    store = EdgeStore.create(path.parent / folder, manifest.stored_dim, views, uni=alone)
    if bank is not None:
        bank.save(path.parent / folder)
    write_manifest(path, manifest)
    return manifest, store, Embedder(model, alone is not None, bank), read(store)


def _shape(model: EmbeddingModel, wanted: Wanted) -> tuple[int, ...]:
    """``(1, V, D)`` of one item."""
    embedded = (
        embed_images(model, [Image.new("RGB", (64, 64))])
        if wanted.texts is None
        else embed_texts(model, ["a"])
    )
    shape: tuple[int, ...] = np.shape(embedded.cross)
    return shape
