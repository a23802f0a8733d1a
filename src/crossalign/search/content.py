"""What an index follows: all that an update asks of photos or texts."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from crossalign.search.bank import BankEntry
from crossalign.search.embedder import Embedder
from crossalign.search.models import Embedded, EmbeddingModel
from crossalign.search.store import VectorStore

__all__ = ["Changes", "Content", "Item", "Step", "Wanted", "embedded_items"]


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

    @property
    def holds(self) -> Literal["photos", "texts"]:
        """What is to be found in it."""
        return "photos" if self.texts is None else "texts"

    @property
    def source(self) -> str:
        """Where that comes from."""
        return self.photos if self.texts is None else self.texts


@dataclass(frozen=True)
class Item:
    """One photo or text as it is stored: vectors ``(V, D)``, its uni-modal one ``(E,)`` where the index has such."""

    id: str
    payload: Mapping[str, Any]
    vectors: np.ndarray
    uni: np.ndarray | None


def embedded_items(
    ids: Sequence[str], payloads: Sequence[Mapping[str, Any]], embedded: Embedded
) -> list[Item]:
    """Items that have just been embedded, in their order."""
    alone = [None] * len(ids) if embedded.uni is None else embedded.uni
    return [Item(*parts) for parts in zip(ids, payloads, embedded.cross, alone, strict=True)]


@dataclass(frozen=True)
class Step:
    """What is written at once. After each step every stored item is whole, and none is there twice.

    Attributes:
        gone: ids to remove, before anything else: cut off in between, an item is missing until the next run, never
            doubled.
        items: to write, new or in the place of others of their id.
        payloads: keys to overwrite in stored items, by id.
        done: how many of :attr:`Changes.total` are settled by it.
        status: a word for the progress bar.
    """

    gone: Sequence[str] = ()
    items: Sequence[Item] = ()
    payloads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    done: int = 0
    status: str = ""


class Changes(Protocol):
    """What differs between a store and what it follows."""

    @property
    def empty(self) -> bool:
        """Whether nothing is to be done."""
        ...

    @property
    def total(self) -> int:
        """How many items have to be looked at."""
        ...

    def steps(self, store: VectorStore, model: Embedder) -> Generator[Step, None, None]:
        """The way to a store in line; each step has been written when the next one is asked for.

        Raises:
            CrossAlignError: the model or the store failed; the steps done so far stay.
        """
        ...


ChangesT_co = TypeVar("ChangesT_co", bound=Changes, covariant=True)


class Content(Protocol[ChangesT_co]):
    """The photos of a folder, or the texts of a file or collection, as they are now."""

    @property
    def wanted(self) -> Wanted:
        """What the index is asked to be."""
        ...

    def sample(self, model: EmbeddingModel) -> Embedded:
        """One item of the kind, embedded, which tells the shape of all."""
        ...

    def changes(self, store: VectorStore) -> ChangesT_co:
        """Compare with what a store holds."""
        ...
