"""What search asks of a vector database: identifiers, vectors and payloads, nothing about photos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from crossalign.encoding import Space

__all__ = ["StoreHit", "StoreRecord", "VectorStore"]


@dataclass(frozen=True)
class StoreRecord:
    """One stored item: its payload and, where asked for, its vectors ``(V, D)`` and its uni-modal one ``(E,)``."""

    id: str
    payload: Mapping[str, Any]
    vectors: np.ndarray | None = None
    uni: np.ndarray | None = None


@dataclass(frozen=True)
class StoreHit:
    """One item found: ``score`` is the largest inner product over the query's rows and the item's views."""

    id: str
    score: float
    payload: Mapping[str, Any]


class VectorStore(Protocol):
    """Items of V vectors of width D each (V is 1 for ordinary embeddings), compared by inner product.

    Beside them an item may have one vector of width E that only others of its kind are compared with.

    An item's vectors and payload are written together, so that they cannot disagree, and a write that has
    returned outlives the process, however that ends. One process holds a store open at a time.
    """

    @property
    def dim(self) -> int:
        """D, width of a vector."""
        ...

    @property
    def views(self) -> int:
        """V, vectors an item."""
        ...

    @property
    def uni(self) -> int | None:
        """E, width of an item's uni-modal vector; None where items have none."""
        ...

    def upsert(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        payloads: Sequence[Mapping[str, Any]],
        uni: np.ndarray | None = None,
    ) -> None:
        """Write items, replacing those of the same id.

        Args:
            vectors: ``(n, V, D)``, or ``(n, D)`` where V is 1.
            uni: ``(n, E)``, given where the store has such vectors, and only there.
        """
        ...

    def update_payloads(self, payloads: Mapping[str, Mapping[str, Any]]) -> None:
        """Overwrite the given payload keys of items, by id; their vectors stay."""
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Remove items; ids that are not there are no error."""
        ...

    def fetch(self, ids: Sequence[str]) -> dict[str, StoreRecord]:
        """The items with these ids, with vectors; ids that are not there are left out."""
        ...

    def scroll(self) -> Iterator[StoreRecord]:
        """Every item, without vectors, in no particular order."""
        ...

    def search(
        self, queries: np.ndarray, k: int, *, exact: bool = False, prefix: str = "", space: Space = "cross"
    ) -> list[StoreHit]:
        """The ``k`` best items for queries, one hit an item, best first, equal scores by id.

        The approximate index may miss some of many equal ones, too.

        Args:
            queries: ``(Q, D)``, or ``(Q, E)`` in the uni-modal space: rows whose best inner product with any view
                counts.
            k: hits at most.
            exact: compare with every vector instead of using the approximate index.
            prefix: only items whose id begins with this.
            space: ``"cross"``, or ``"uni"`` for the uni-modal vectors.
        """
        ...

    def count(self) -> int:
        """Number of items."""
        ...

    def verify(self, count: int) -> None:
        """Raise CrossAlignError unless there are ``count`` items and each can be found; reads every vector."""
        ...

    def optimize(self) -> None:
        """Bring the approximate index up to date and give back the room of deleted items."""
        ...

    def flush(self) -> None:
        """Write everything through to the disk."""
        ...

    def close(self) -> None:
        """Flush and let go of the files."""
        ...
