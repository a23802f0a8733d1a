"""An index of made-up photos, filled and asked as ``crossalign index`` and ``crossalign search`` do."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from crossalign.search.edge import EdgeStore
from crossalign.search.engine import SearchEngine
from crossalign.search.manifest import Manifest

__all__ = ["asked", "engine_of", "fill"]


def fill(store: EdgeStore, photos: np.ndarray, at_once: int = 32) -> dict[str, float]:
    """Write all photos ``(n, V, D)`` as an index run would; seconds for writing and for arranging."""
    begin = time.perf_counter()
    for start in range(0, len(photos), at_once):
        part = photos[start : start + at_once]
        ids = [f"folder/photo {start + position:06d}.jpg" for position in range(len(part))]
        payload = {"size": 1, "mtime_ns": 1, "sha256": "0" * 64, "width": 640, "height": 480}
        store.upsert(ids, part, [payload] * len(part))
    written = time.perf_counter()
    store.optimize()
    store.flush()
    return {"write_s": written - begin, "arrange_s": time.perf_counter() - written}


def engine_of(store: EdgeStore, place: Path) -> SearchEngine:
    """A search without a model: queries come as vectors."""
    manifest = Manifest(
        model=None,
        fingerprint="",
        dim=store.dim,
        views=store.views,
        photos=str(place),
        store="store-00000000",
        created="",
    )
    return SearchEngine(None, manifest, store, None, place)  # type: ignore[arg-type]


def asked(engine: SearchEngine, query: np.ndarray, hits: int, *, exact: bool) -> list[int]:
    """Positions of the photos that a search for ``query`` ``(D,)`` finds, best first."""
    return [int(hit.file[-10:-4]) for hit in engine.search(query[None], hits, exact=exact)]
