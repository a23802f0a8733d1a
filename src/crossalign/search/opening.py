"""The description and the store of an index: found fitting what is wanted, or begun anew."""

from __future__ import annotations

import datetime
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Generic, NamedTuple

import numpy as np

from crossalign.errors import CrossAlignError
from crossalign.search.bank import QueryBank
from crossalign.search.content import ChangesT_co, Content, Wanted
from crossalign.search.edge import EdgeStore
from crossalign.search.embedder import Embedder
from crossalign.search.manifest import Manifest, read_manifest
from crossalign.search.models import EmbeddingModel

__all__ = ["OpenStore", "fitting", "new_store", "open_store", "present"]


class OpenStore(NamedTuple, Generic[ChangesT_co]):
    """A store, what embeds for it, and what differs between it and what it follows."""

    store: EdgeStore
    embedder: Embedder
    changes: ChangesT_co


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
    if manifest.holds == wanted.holds:
        # What is no longer where it was has been moved here; what still is there is something else.
        same = manifest.source == wanted.source or not Path(manifest.source).exists()
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
    place: Path, manifest: Manifest, model: EmbeddingModel, rebuild: bool, content: Content[ChangesT_co]
) -> OpenStore[ChangesT_co] | None:
    """The store of a description, every vector of it found; None where it is damaged and can be begun anew."""
    try:
        count = manifest.count if manifest.complete else None
        folder = place / manifest.store
        bank = None if manifest.bank is None else QueryBank.load(folder)
        store = EdgeStore.open(folder, manifest.stored_dim, manifest.views, uni=manifest.uni, count=count)
        try:
            store.verify(store.count())
            return OpenStore(store, Embedder(model, manifest, bank), content.changes(store))
        except BaseException:
            with suppress(CrossAlignError):
                store.close()
            raise
    except CrossAlignError:
        if rebuild:
            return None
        raise


def new_store(
    place: Path, name: str | None, model: EmbeddingModel, fingerprint: str, content: Content[ChangesT_co]
) -> OpenStore[ChangesT_co]:
    """An empty store for what a model makes of the content; its description is still to be written."""
    wanted = content.wanted
    alone = model.uni_modal_width
    _, views, dim = np.shape(content.sample(model).cross)
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
        store=f"store-{secrets.token_hex(4)}",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    bank = None
    if wanted.bank is not None:
        bank = QueryBank.of_texts(model, wanted.bank_texts, wanted.bank.temperature)
    folder = place / manifest.store
    store = EdgeStore.create(folder, manifest.stored_dim, views, uni=alone)
    if bank is not None:
        bank.save(folder)
    return OpenStore(store, Embedder(model, manifest, bank), content.changes(store))
