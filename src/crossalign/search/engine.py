"""Searching an index with words or with a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from crossalign.data.photos import open_photo
from crossalign.devices import usable_device
from crossalign.ensemble import EnsembleModel
from crossalign.errors import CrossAlignError
from crossalign.model import RetrievalModel
from crossalign.reranking import RERANK_TOP
from crossalign.search.edge import EdgeStore
from crossalign.search.hit import Hit
from crossalign.search.lock import IndexLock
from crossalign.search.manifest import MANIFEST_FILE, Manifest, read_manifest
from crossalign.search.models import EmbeddingModel, PhotoScorer, TruncatedModel, embed_images, load_model
from crossalign.search.place import check_index
from crossalign.search.rerank import reranked
from crossalign.search.store import StoreHit, VectorStore

__all__ = ["SearchEngine"]

# Of how many photos of largest inner product the cosines are looked at, for each hit wanted and at least.
_COSINES_A_HIT, _LEAST_COSINES = 4, 64
_FETCHED_AT_ONCE = 256


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
        check_index(folder)
        path = folder / MANIFEST_FILE
        manifest = read_manifest(path)
        if model is None:
            if manifest.model is None:
                raise CrossAlignError(f"{path}: does not say where the model is; give it (--model)")
            model = manifest.model
        if isinstance(model, str | Path):
            device = usable_device(device)
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
            loaded = load_model(loaded, width=manifest.width)
            # Reading every vector is left to 'crossalign index': a search should not wait for it.
            count = manifest.count if manifest.complete else None
            store = EdgeStore.open(folder / manifest.store, manifest.dim, manifest.views, count=count)
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

    def search_text(
        self,
        text: str,
        k: int = 10,
        *,
        exact: bool = False,
        folder: str = "",
        rerank: PhotoScorer | None = None,
        rerank_top: int = RERANK_TOP,
    ) -> list[Hit]:
        """The ``k`` photos that fit a text best; see :meth:`search`.

        Args:
            rerank: puts the best photos into its own order, such as a :class:`~crossalign.search.rerank.PhotoReranker`;
                see :func:`~crossalign.search.rerank.reranked`.
            rerank_top: how many of the best it looks at, ``k`` of them if that is more.

        Raises:
            CrossAlignError: ``k`` or ``rerank_top`` is below 1, or the text is empty.

        Example:
            >>> reranker = PhotoReranker.open("runs/flickr8k-scan")
            >>> with SearchEngine.open("photos.index") as engine:
            ...     hits = engine.search_text("two dogs in the snow", k=5, rerank=reranker, rerank_top=100)
        """
        query = self.encode_text(text)
        if rerank is None:
            return self.search(query, k, exact=exact, folder=folder)
        if min(k, rerank_top) < 1:
            raise CrossAlignError(f"k is {k} and rerank_top {rerank_top}; ask for at least one photo")
        found = self.search(query, max(k, rerank_top), exact=exact, folder=folder)
        return reranked(found, text, rerank)[:k]

    def search_image(
        self, image: str | Path | Image.Image, k: int = 10, *, exact: bool = False, folder: str = ""
    ) -> list[Hit]:
        """The ``k`` photos most like a picture, by cosine; see :meth:`search`."""
        return self.search(self.encode_image(image), k, exact=exact, folder=folder, cosine=True)

    def encode_text(self, text: str) -> np.ndarray:
        """The query vector ``(1, D)`` of a text.

        Raises:
            CrossAlignError: the text is empty.
        """
        if not text.strip():
            raise CrossAlignError("the query is empty; give some words")
        return self.model.encode_texts([text]).numpy()

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words of a text that the model does not know; see :meth:`crossalign.RetrievalModel.unknown_words`."""
        model = self.model.model if isinstance(self.model, TruncatedModel) else self.model
        return model.unknown_words(text) if isinstance(model, RetrievalModel | EnsembleModel) else ()

    def encode_image(self, image: str | Path | Image.Image) -> np.ndarray:
        """The query vectors ``(V, D)`` of a picture.

        Raises:
            CrossAlignError: the file is missing or no readable picture.
        """
        vectors: np.ndarray = embed_images(self.model, [open_photo(image)])[0]
        return vectors

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        *,
        exact: bool = False,
        folder: str = "",
        cosine: bool = False,
    ) -> list[Hit]:
        """The photos of largest inner product with any of the query vectors, best first, equal ones by file.

        A model is trained for inner products of texts and images, and its embeddings need not be of unit norm. Two
        images are better compared by ``cosine``: by inner product a photo need not be the one most like itself.

        Args:
            queries: ``(Q, D)``.
            k: hits at most.
            exact: compare with every photo; without, large indexes use a graph that may miss a few of 1000.
            folder: only photos in this folder, relative to the photo folder.
            cosine: of the ``4 k`` photos of largest inner product (at least 64) those of largest cosine; scores are
                cosines then.

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
        prefix = f"{within}/" if within not in ("", ".") else ""
        wanted = max(_COSINES_A_HIT * k, _LEAST_COSINES) if cosine else k
        found = self._store.search(queries, wanted, exact=exact, prefix=prefix)
        if cosine:
            found = self._by_cosine(queries, found)[:k]
        hits = []
        for rank, hit in enumerate(found, start=1):
            path = self.photos / hit.id
            width, height = hit.payload["width"], hit.payload["height"]
            hits.append(Hit(rank, hit.score, hit.id, path, width, height, missing=not path.is_file()))
        return hits

    def _by_cosine(self, queries: np.ndarray, found: Sequence[StoreHit]) -> list[StoreHit]:
        """The same hits with their cosines, ordered by those."""
        rows = _unit(queries)
        hits = []
        for start in range(0, len(found), _FETCHED_AT_ONCE):
            part = found[start : start + _FETCHED_AT_ONCE]
            stored = self._store.fetch([hit.id for hit in part])
            for hit in part:
                vectors = stored[hit.id].vectors
                assert vectors is not None
                # One product an item, in float64: equal vectors get equal scores, whatever stands beside them.
                score = np.float32((_unit(vectors) @ rows.T).max())
                hits.append(replace(hit, score=float(score)))
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))

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


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of norm 1 in float64; a zero row stays."""
    wide = rows.astype(np.float64)
    norms: np.ndarray = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(norms > 0, norms, 1.0)
