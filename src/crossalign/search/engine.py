"""Searching an index with words or with a picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from crossalign.data.photos import open_photo
from crossalign.errors import CrossAlignError
from crossalign.search.edge import EdgeStore
from crossalign.search.lock import IndexLock
from crossalign.search.manifest import MANIFEST_FILE, Manifest, read_manifest
from crossalign.search.models import EmbeddingModel, embed_images, load_model
from crossalign.search.store import VectorStore

__all__ = ["Hit", "SearchEngine"]


@dataclass(frozen=True)
class Hit:
    """A photo found.

    Attributes:
        rank: 1 is the best.
        score: inner product with the query, the largest over views.
        file: path relative to the photo folder, posix.
        path: where the photo is on this machine.
        width: pixels, the right way up.
        height: pixels.
        missing: whether the photo is no longer there.
    """

    rank: int
    score: float
    file: str
    path: Path
    width: int
    height: int
    missing: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "path": str(self.path)}


class SearchEngine:
    """An open index and the model it was made with. Use as a context manager, or close it.

    Example:
        >>> with SearchEngine.open("photos.index") as engine:
        ...     hits = engine.search_text("two dogs in the snow", k=5)
    """

    def __init__(
        self, model: EmbeddingModel, manifest: Manifest, store: VectorStore, lock: IndexLock | None
    ) -> None:
        self.model = model
        self.manifest = manifest
        self.photos = Path(manifest.photos)
        self._store = store
        self._lock = lock

    @classmethod
    def open(
        cls,
        index: str | Path,
        model: EmbeddingModel | str | Path | None = None,
        *,
        device: str = "auto",
        wait: float = 2.0,
    ) -> SearchEngine:
        """Open an index; nobody else can until it is closed.

        Args:
            index: the index folder.
            model: a model, its folder or its Hub name, instead of the place the index has written down.
            device: where a model that is loaded here runs.
            wait: seconds to wait for another process that has the index open.

        Raises:
            CrossAlignError: no index, damaged, in use, or made with another model.
        """
        folder = Path(index).resolve()
        path = folder / MANIFEST_FILE
        manifest = read_manifest(path)
        if model is None:
            if manifest.model is None:
                raise CrossAlignError(f"{path}: does not say where the model is; give it (--model)")
            model = manifest.model
        # Loaded before the index is locked: it takes longer than the search.
        try:
            loaded = load_model(model, device)
        except CrossAlignError as error:
            if model != manifest.model:
                raise
            raise CrossAlignError(
                f"{error}; {path} names it: if it has moved, give it with --model"
            ) from None
        fingerprint = loaded.fingerprint
        lock = IndexLock(folder, "crossalign search", wait=wait)
        try:
            manifest = read_manifest(path)
            if manifest.fingerprint != fingerprint:
                raise CrossAlignError(
                    f"{folder}: built with another model (fingerprint {manifest.fingerprint[:12]}, "
                    f"this one is {fingerprint[:12]}); give that one with --model, "
                    "or run 'crossalign index --rebuild' with this one"
                )
            store = EdgeStore.open(folder / manifest.store, manifest.dim, manifest.views)
            try:
                if manifest.complete:
                    store.verify(manifest.count)
            except CrossAlignError:
                store.close()
                raise
        except BaseException:
            lock.release()
            raise
        return cls(loaded, manifest, store, lock)

    @property
    def complete(self) -> bool:
        """Whether the last update ran to its end; if not, photos may be missing from the index."""
        return self.manifest.complete

    @property
    def count(self) -> int:
        """Photos in the index."""
        return self._store.count()

    def search_text(self, text: str, k: int = 10, *, exact: bool = False, folder: str = "") -> list[Hit]:
        """The ``k`` photos that fit a text best; see :meth:`search`."""
        return self.search(self.encode_text(text), k, exact=exact, folder=folder)

    def search_image(
        self, image: str | Path | Image.Image, k: int = 10, *, exact: bool = False, folder: str = ""
    ) -> list[Hit]:
        """The ``k`` photos that fit a picture best; see :meth:`search`."""
        return self.search(self.encode_image(image), k, exact=exact, folder=folder)

    def encode_text(self, text: str) -> np.ndarray:
        """The query vector ``(1, D)`` of a text.

        Raises:
            CrossAlignError: the text is empty.
        """
        if not text.strip():
            raise CrossAlignError("the query is empty; give some words")
        return self.model.encode_texts([text]).numpy()

    def encode_image(self, image: str | Path | Image.Image) -> np.ndarray:
        """The query vectors ``(V, D)`` of a picture.

        Raises:
            CrossAlignError: the file is missing or no readable picture.
        """
        vectors: np.ndarray = embed_images(self.model, [open_photo(image)])[0]
        return vectors

    def search(self, queries: np.ndarray, k: int = 10, *, exact: bool = False, folder: str = "") -> list[Hit]:
        """The photos of largest inner product with any of the query vectors, best first, equal ones by file.

        Args:
            queries: ``(Q, D)``.
            k: hits at most.
            exact: compare with every photo; without, large indexes use a graph that may miss a few of 1000.
            folder: only photos in this folder, relative to the photo folder.

        Raises:
            CrossAlignError: ``k`` is below 1, or the queries are not ``D`` wide.
        """
        if k < 1:
            raise CrossAlignError(f"k is {k}; ask for at least one hit")
        if queries.ndim != 2 or queries.shape[1] != self.manifest.dim:
            raise CrossAlignError(
                f"query of shape {queries.shape}; the index compares vectors of {self.manifest.dim}"
            )
        within = folder.strip("/")
        found = self._store.search(
            queries, k, exact=exact, prefix=f"{within}/" if within not in ("", ".") else ""
        )
        hits = []
        for rank, hit in enumerate(found, start=1):
            path = self.photos / hit.id
            width, height = hit.payload["width"], hit.payload["height"]
            hits.append(Hit(rank, hit.score, hit.id, path, width, height, missing=not path.is_file()))
        return hits

    def close(self) -> None:
        """Let others open the index; further calls do nothing."""
        if self._lock is not None:
            self._store.close()
            self._lock.release()
            self._lock = None

    def __enter__(self) -> SearchEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
