"""An open index and the model it was made with: what searching photos and searching texts have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Literal, Self

import numpy as np
from PIL import Image

from crossalign.data.photos import open_photo
from crossalign.devices import usable_device
from crossalign.encoding import Space
from crossalign.errors import CrossAlignError
from crossalign.search.commands import index_command
from crossalign.search.edge import EdgeStore
from crossalign.search.lock import IndexLock
from crossalign.search.manifest import MANIFEST_FILE, Manifest, read_manifest
from crossalign.search.models import (
    Embedded,
    EmbeddingModel,
    embed_images,
    embed_texts,
    load_model,
    model_name,
)
from crossalign.search.place import check_index
from crossalign.search.store import StoreHit, VectorStore

__all__ = ["Comparison", "OpenIndex"]

# Of how many items of largest inner product the cosines are looked at, for each hit wanted and at least.
_COSINES_A_HIT, _LEAST_COSINES = 4, 64
_FETCHED_AT_ONCE = 256


@dataclass(frozen=True)
class Comparison:
    """How a query is compared with what an index holds.

    Attributes:
        space: whose embeddings: ``"cross"`` of photos with texts, ``"uni"`` of the uni-modal heads.
        cosine: whether they are compared by their cosine, being of any norm, and not by their inner product.
        fallback: why a query of the index's own kind is not compared by uni-modal heads; None where it is, or where
            these have no part in it.
    """

    space: Space
    cosine: bool = False
    fallback: str | None = None


class OpenIndex:
    """An open index; see :class:`~crossalign.search.engine.SearchEngine` and
    :class:`~crossalign.search.text_engine.TextSearchEngine`."""

    holds: ClassVar[Literal["photos", "texts"]]

    def __init__(
        self,
        model: EmbeddingModel,
        manifest: Manifest,
        store: VectorStore,
        lock: IndexLock | None,
        place: Path,
    ) -> None:
        self.model = model
        self.manifest = manifest
        self.place = place
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
    ) -> Self:
        """Open an index; nobody else can until it is closed.

        Args:
            index: the index folder.
            model: a model, its folder or its Hub name, instead of the place the index has written down.
            device: where a model that is loaded here runs.
            wait: seconds to wait for another process that has the index open.

        Raises:
            CrossAlignError: no index, damaged, in use, or made with another model, or of other things.
        """
        folder = Path(index).resolve()
        check_index(folder)
        path = folder / MANIFEST_FILE
        manifest = read_manifest(path)
        if manifest.holds != cls.holds:
            raise CrossAlignError(f"{folder}: an index of {manifest.holds}, not of {cls.holds}")
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
                    "or make the index anew with this one: "
                    + index_command(manifest, folder, model=model_name(model) or "MODEL", rebuild=True)
                )
            loaded = load_model(loaded, width=manifest.width)
            # Reading every vector is left to 'crossalign index': a search should not wait for it.
            count = manifest.count if manifest.complete else None
            store = EdgeStore.open(
                folder / manifest.store, manifest.stored_dim, manifest.views, uni=manifest.uni, count=count
            )
        except BaseException:
            lock.release()
            raise
        return cls(loaded, manifest, store, lock, folder)

    @property
    def complete(self) -> bool:
        """Whether the last update ran to its end; if not, some may be missing from the index."""
        return self.manifest.complete

    @property
    def count(self) -> int:
        """Photos or texts in the index."""
        return self._store.count()

    def compared(self, query: Literal["image", "text"]) -> Comparison:
        """How a picture or a text is compared with what the index holds."""
        if query != self.holds[:-1].replace("photo", "image"):
            return Comparison("cross")
        if self.manifest.uni is not None:
            return Comparison("uni")
        reason = "the model has no uni-modal heads"
        if self.model.uni_modal_width is not None:
            reason = (
                "the index was made without the model's uni-modal embeddings (add them: "
                f"{index_command(self.manifest, self.place, rebuild=True)})"
            )
        return Comparison("cross", cosine=True, fallback=reason)

    def encode_text(self, text: str, space: Space = "cross") -> np.ndarray:
        """The query vector ``(1, D)`` of a text, or ``(1, E)`` in the uni-modal space.

        Raises:
            CrossAlignError: the text is empty, or the model has no uni-modal heads.
        """
        if not text.strip():
            raise CrossAlignError("the query is empty; give some words")
        return self._query(embed_texts(self.model, [text], uni=self._asked(space)), space)

    def encode_image(self, image: str | Path | Image.Image, space: Space = "cross") -> np.ndarray:
        """The query vectors ``(V, D)`` of a picture, or ``(1, E)`` in the uni-modal space.

        Raises:
            CrossAlignError: the file is missing or no readable picture, or the model has no uni-modal heads.
        """
        return self._query(embed_images(self.model, [open_photo(image)], uni=self._asked(space)), space)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words of a text that the model does not know; see :meth:`crossalign.RetrievalModel.unknown_words`."""
        return self.model.unknown_words(text)

    def _asked(self, space: Space) -> bool:
        if space == "uni" and self.model.uni_modal_width is None:
            raise CrossAlignError("this model has no uni-modal heads; compare its cross-modal embeddings")
        return space == "uni"

    @staticmethod
    def _query(embedded: Embedded, space: Space) -> np.ndarray:
        if space == "cross":
            vectors: np.ndarray = embedded.cross[0]
            return vectors
        assert embedded.uni is not None
        return embedded.uni

    def _nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        exact: bool,
        prefix: str = "",
        cosine: bool = False,
        space: Space = "cross",
        corrected: bool = False,
    ) -> list[StoreHit]:
        """The best items for query vectors; ``corrected`` by the query bank."""
        if k < 1:
            raise CrossAlignError(f"k is {k}; ask for at least one hit")
        if space == "uni" and self.manifest.uni is None:
            raise CrossAlignError(
                "the index holds no uni-modal embeddings; build it again: "
                + index_command(self.manifest, self.place, rebuild=True)
            )
        width = self.manifest.dim if space == "cross" else self.manifest.uni
        if queries.ndim != 2 or queries.shape[1] != width:
            raise CrossAlignError(f"query of shape {queries.shape}; the index compares vectors of {width}")
        if space == "cross" and self.manifest.bank is not None:
            # A 1 brings in what is subtracted from each photo's scores, a 0 leaves it out.
            switch = np.full((len(queries), 1), float(corrected), queries.dtype)
            queries = np.concatenate([queries, switch], axis=1)
        wanted = max(_COSINES_A_HIT * k, _LEAST_COSINES) if cosine else k
        found = self._store.search(queries, wanted, exact=exact, prefix=prefix, space=space)
        return self._by_cosine(queries, found)[:k] if cosine else found

    def _by_cosine(self, queries: np.ndarray, found: Sequence[StoreHit]) -> list[StoreHit]:
        """The same hits with their cosines, ordered by those."""
        rows = _unit(queries[:, : self.manifest.dim])
        hits = []
        for start in range(0, len(found), _FETCHED_AT_ONCE):
            part = found[start : start + _FETCHED_AT_ONCE]
            stored = self._store.fetch([hit.id for hit in part])
            for hit in part:
                vectors = stored[hit.id].vectors
                assert vectors is not None
                # One product an item, in float64: equal vectors get equal scores, whatever stands beside them.
                score = np.float32((_unit(vectors[:, : self.manifest.dim]) @ rows.T).max())
                hits.append(replace(hit, score=float(score)))
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))

    def close(self) -> None:
        """Let others open the index; further calls do nothing."""
        if self._lock is not None:
            self._store.close()
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
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
