"""A vector store inside this process, on Qdrant Edge."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from crossalign.encoding import Space
from crossalign.errors import CrossAlignError, missing_extra
from crossalign.search.store import StoreHit, StoreRecord

try:
    import qdrant_edge as edge
except ModuleNotFoundError:
    raise missing_extra("qdrant-edge-py", "search", "searching photos") from None

__all__ = ["EdgeStore"]

_NAMESPACE = uuid.UUID("6e1c6bb4-58a3-5d0c-9a55-0a0f4b1d7f5e")
_PAGE = 4096
# Comparing a query with this much vector data (10,000 vectors of width 256) takes under a millisecond.
_EXACT_KILOBYTES = 10_000
_GRAPH_EDGES = 32
_BUILD_CANDIDATES = 200
# How far a search looks around in the graph; near-equal views of one item crowd out other items.
_SEARCH_CANDIDATES, _SEARCH_CANDIDATES_OF_VIEWS = 128, 320
_VIEW_DIGITS = 4
_UNI = "uni"


class EdgeStore:
    """A :class:`~crossalign.search.store.VectorStore` in a folder of its own.

    Every view of an item is a point of its own: a graph over single vectors is several times faster and more
    accurate than one over sets of vectors. The points of an item are always written by one logged operation; the first
    also carries the item's uni-modal vector, under a name of its own.
    """

    def __init__(self, shard: Any, folder: Path, dim: int, views: int, uni: int | None) -> None:
        self._shard = shard
        self._folder = folder
        self._count: int | None = None
        self.dim = dim
        self.views = views
        self.uni = uni

    @classmethod
    def create(
        cls,
        folder: str | Path,
        dim: int,
        views: int = 1,
        *,
        uni: int | None = None,
        exact_kilobytes: int = _EXACT_KILOBYTES,
    ) -> EdgeStore:
        """Make an empty store for items of ``views`` vectors of width ``dim`` in a folder that holds none.

        Args:
            folder: place of the store.
            dim: D, width of a vector.
            views: V, vectors an item.
            uni: E, width of the uni-modal vector of an item; None: items have none.
            exact_kilobytes: with less vector data than this, every search compares all of it.
        """
        folder = Path(folder)
        widths = {"": dim} if uni is None else {"": dim, _UNI: uni}
        graph = edge.HnswIndexConfig(_GRAPH_EDGES, _BUILD_CANDIDATES, exact_kilobytes)
        config = edge.EdgeConfig(
            vectors={
                name: edge.EdgeVectorParams(width, edge.Distance.Dot, hnsw_config=graph)
                for name, width in widths.items()
            },
            # One large segment: a query then walks one graph.
            optimizers=edge.EdgeOptimizersConfig(
                indexing_threshold=exact_kilobytes, default_segment_number=1
            ),
            # A search is too short to share out: waking more threads costs more than it saves.
            max_search_threads=1,
        )
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            shard = edge.EdgeShard.create(str(folder), config)
            prefixes = edge.KeywordIndexParams(prefix=True, enable_hnsw=False)
            shard.update(edge.UpdateOperation.create_field_index("id", prefixes))
            shard.flush()
        return cls(shard, folder, dim, views, uni)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        dim: int,
        views: int = 1,
        *,
        uni: int | None = None,
        count: int | None = None,
    ) -> EdgeStore:
        """Open a store made by :meth:`create`.

        Args:
            folder: place of the store.
            dim: D, width of a vector.
            views: V, vectors an item.
            uni: E, width of the uni-modal vector of an item; None: items have none.
            count: refuse it unless there are so many items and files large enough for them. No vector is read, so
                that takes the same time for many as for few; :meth:`verify` reads all.

        Raises:
            CrossAlignError: it is missing or damaged.
        """
        folder = Path(folder)
        if count is not None:
            # Before the engine sees them: it fills files that were cut.
            _check_count(folder, min(count, _vector_bytes(folder) // (4 * dim * views)), count)
            if uni is not None:
                _check_count(folder, min(count, _vector_bytes(folder, _UNI) // (4 * uni)), count)
        with _told(folder):
            store = cls(edge.EdgeShard.load(str(folder)), folder, dim, views, uni)
        if count is not None and (found := store.count()) != count:
            store.close()
            _check_count(folder, found, count)
        return store

    def upsert(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        payloads: Sequence[Mapping[str, Any]],
        uni: np.ndarray | None = None,
    ) -> None:
        """Write items; one with the same id is replaced."""
        table = np.asarray(vectors, dtype=np.float32).reshape(len(ids), self.views, self.dim)
        if (uni is None) != (self.uni is None):
            raise ValueError("uni-modal vectors must be given where the store has them, and only there")
        alone = None if uni is None else np.asarray(uni, dtype=np.float32).reshape(len(ids), -1)
        points = []
        for place, (item, payload) in enumerate(zip(ids, payloads, strict=True)):
            for view, vector in enumerate(table[place].tolist()):
                named = {"": vector}
                if alone is not None and view == 0:
                    named[_UNI] = alone[place].tolist()
                points.append(edge.Point(_point(item, view), named, {**payload, "id": item, "view": view}))
        self._count = None
        if points:
            with _told(self._folder):
                self._shard.update(edge.UpdateOperation.upsert_points(points))

    def update_payloads(self, payloads: Mapping[str, Mapping[str, Any]]) -> None:
        """Overwrite the given payload keys of items, by id."""
        with _told(self._folder):
            for item, payload in payloads.items():
                self._shard.update(edge.UpdateOperation.set_payload(self._points([item]), dict(payload)))

    def delete(self, ids: Sequence[str]) -> None:
        """Remove items; ids that are not there are no error."""
        self._count = None
        if ids:
            with _told(self._folder):
                self._shard.update(edge.UpdateOperation.delete_points(self._points(ids)))

    def fetch(self, ids: Sequence[str]) -> dict[str, StoreRecord]:
        """The items with these ids, with vectors."""
        with _told(self._folder):
            records = self._shard.retrieve(self._points(sorted(set(ids))), True, True) if ids else []
        vectors: dict[str, list[Any]] = {}
        alone: dict[str, np.ndarray] = {}
        payloads: dict[str, dict[str, Any]] = {}
        for record in sorted(records, key=lambda record: record.payload["view"]):
            item, found = record.payload["id"], record.vector
            if isinstance(found, dict):
                alone[item] = np.asarray(found[_UNI], dtype=np.float32)
                found = found[""]
            vectors.setdefault(item, []).append(found)
            payloads[item] = _without_keys(record.payload)
        return {
            item: StoreRecord(item, payloads[item], np.asarray(views, dtype=np.float32), alone.get(item))
            for item, views in vectors.items()
        }

    def scroll(self) -> Iterator[StoreRecord]:
        """Every item, without vectors."""
        first_views = edge.Filter(must=[edge.FieldCondition(key="view", match=edge.MatchValue(0))])
        offset = None
        while True:
            request = edge.ScrollRequest(
                offset=offset, limit=_PAGE, filter=first_views, with_payload=True, with_vector=False
            )
            with _told(self._folder):
                records, offset = self._shard.scroll(request)
            for record in records:
                yield StoreRecord(record.payload["id"], _without_keys(record.payload))
            if offset is None:
                return

    def search(
        self, queries: np.ndarray, k: int, *, exact: bool = False, prefix: str = "", space: Space = "cross"
    ) -> list[StoreHit]:
        """The ``k`` best items for ``(Q, D)`` queries, or ``(Q, E)`` in the uni-modal space."""
        rows = np.asarray(queries, dtype=np.float32)
        width = self.dim if space == "cross" else self.uni
        if rows.ndim != 2 or rows.shape[1] != width:
            raise ValueError(f"queries must be (Q, {width}), not {rows.shape}")
        k = min(k, self.count())
        if k < 1:
            return []
        within = edge.Filter(must=[edge.FieldCondition(key="id", match=edge.MatchPrefix(prefix))])
        best: dict[str, tuple[float, str]] = {}
        for row in rows:
            for item, score, point in self._nearest(
                row.tolist(), k, exact, within if prefix else None, space
            ):
                if item not in best or score > best[item][0]:
                    best[item] = (score, point)
        if not best:
            return []
        # Equal scores are ordered by id, which is read with the payload.
        lowest = sorted((score for score, _ in best.values()), reverse=True)[:k][-1]
        scores = {point: score for score, point in best.values() if score >= lowest}
        with _told(self._folder):
            records = self._shard.retrieve(list(scores), True, False)
        hits = [
            StoreHit(record.payload["id"], scores[str(record.id)], _without_keys(record.payload))
            for record in records
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))[:k]

    def _nearest(
        self, query: list[float], k: int, exact: bool, within: edge.Filter | None, space: Space
    ) -> list[tuple[str, float, str]]:
        """The ``k`` best items and all equal to the last: item, score and point of its best view, best first."""
        # The best view of the item on rank k has at most all views of the k - 1 items before it ahead of it. One
        # more tells whether others are equal to it.
        views, using = (self.views, None) if space == "cross" else (1, _UNI)
        candidates = _SEARCH_CANDIDATES if views == 1 else _SEARCH_CANDIDATES_OF_VIEWS
        limit = (k - 1) * views + 2
        while True:
            parameters = edge.SearchParams(hnsw_ef=max(candidates, limit + k), exact=exact)
            # Payloads are left out: reading them for every view takes longer than finding the views.
            request = edge.QueryRequest(
                limit,
                query=edge.Query.Nearest(query, using),
                with_payload=False,
                filter=within,
                params=parameters,
            )
            with _told(self._folder):
                points = self._shard.query(request)
            best: dict[str, tuple[str, float, str]] = {}
            for point in points:
                name = str(point.id)
                best.setdefault(name[:-_VIEW_DIGITS], (name[:-_VIEW_DIGITS], float(point.score), name))
            found = list(best.values())
            if len(points) < limit or points[-1].score < found[k - 1][1]:
                return found
            limit *= 4

    def count(self) -> int:
        """Number of items."""
        if self._count is None:
            with _told(self._folder):
                self._count = self._shard.count(edge.CountRequest(exact=True)) // self.views
        return self._count

    def has(self, prefix: str) -> bool:
        """Whether the id of any item begins with ``prefix``."""
        within = edge.Filter(must=[edge.FieldCondition(key="id", match=edge.MatchPrefix(prefix))])
        request = edge.ScrollRequest(limit=1, filter=within, with_payload=False, with_vector=False)
        with _told(self._folder):
            records, _ = self._shard.scroll(request)
        return bool(records)

    def verify(self, count: int) -> None:
        """Raise CrossAlignError unless there are ``count`` items and each can be found; reads every vector."""
        points = count * self.views
        with _told(self._folder):
            # The count and the scan read different files: a lost vector file leaves the count as it was.
            found = min(
                self._scanned(points, self.dim, None), self._shard.count(edge.CountRequest(exact=True))
            )
            alone = count if self.uni is None else self._scanned(count, self.uni, _UNI)
        _check_count(self._folder, found, points)
        _check_count(self._folder, alone, count)

    def _scanned(self, most: int, width: int, using: str | None) -> int:
        """How many vectors a scan of all finds; one more than ``most`` at most."""
        request = edge.QueryRequest(
            most + 1,
            query=edge.Query.Nearest([0.0] * width, using),
            with_payload=False,
            params=edge.SearchParams(exact=True),
        )
        return len(self._shard.query(request))

    def optimize(self) -> None:
        """Bring the approximate index up to date and give back the room of deleted items."""
        with _told(self._folder):
            self._shard.optimize()

    def flush(self) -> None:
        """Write everything through to the disk."""
        with _told(self._folder):
            self._shard.flush()

    def close(self) -> None:
        """Flush and let go of the files."""
        with _told(self._folder):
            self._shard.close()

    def _points(self, ids: Sequence[str]) -> list[edge.PointId]:
        return [_point(item, view) for item in ids for view in range(self.views)]


def _point(item: str, view: int) -> str:
    """A point's id: the views of an item differ in the last digits only."""
    return f"{str(uuid.uuid5(_NAMESPACE, item))[:-_VIEW_DIGITS]}{view:0{_VIEW_DIGITS}x}"


def _vector_bytes(folder: Path, name: str = "") -> int:
    """Size of the files of vectors of a name, without the marks of deleted ones that lie beside them."""
    segments = folder / "segments"
    storage = f"vector_storage-{name}" if name else "vector_storage"
    return sum(
        file.stat().st_size
        for file in segments.glob(f"*/{storage}/**/*")
        if file.is_file() and not any(part.startswith("deleted") for part in file.relative_to(segments).parts)
    )


def _check_count(folder: Path, found: int, expected: int) -> None:
    if found != expected:
        raise CrossAlignError(
            f"{folder}: damaged, {found} of {expected} embeddings are there; "
            "build the index again with 'crossalign index --rebuild'"
        )


def _without_keys(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in payload.items() if key not in ("id", "view")}


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn the engine's errors into one line that names the place."""
    try:
        yield
    except (CrossAlignError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        # A panic of the engine arrives as PanicException, which is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())
        raise CrossAlignError(
            f"{folder}: the vector store failed ({reason}); "
            "if it is damaged, build the index again with 'crossalign index --rebuild'"
        ) from error
