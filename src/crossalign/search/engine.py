"""Searching an index of photos with words or with a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from crossalign.encoding import Space
from crossalign.errors import CrossAlignError
from crossalign.reranking import RERANK_TOP
from crossalign.search.commands import index_command
from crossalign.search.folders import folder_prefix
from crossalign.search.hit import Hit
from crossalign.search.models import PhotoScorer
from crossalign.search.open_index import OpenIndex
from crossalign.search.rerank import reranked

__all__ = ["SearchEngine"]


class SearchEngine(OpenIndex):
    """An open index of photos and the model it was made with. Use as a context manager, or close it.

    Example:
        >>> with SearchEngine.open("photos.index") as engine:
        ...     hits = engine.search_text("two dogs in the snow", k=5)
    """

    holds = "photos"

    @property
    def photos(self) -> Path:
        """The photo folder."""
        return Path(self.manifest.photos)

    def search_text(
        self,
        text: str,
        k: int = 10,
        *,
        exact: bool = False,
        folder: str = "",
        rerank: PhotoScorer | None = None,
        rerank_top: int = RERANK_TOP,
        hubness: bool | None = None,
    ) -> list[Hit]:
        """The ``k`` photos that fit a text best; see :meth:`search`.

        Args:
            hubness: correct scores by the query bank; None: where the index has one.
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
        corrected = self.manifest.bank is not None if hubness is None else hubness
        if rerank is None:
            return self.search(query, k, exact=exact, folder=folder, hubness=corrected)
        if min(k, rerank_top) < 1:
            raise CrossAlignError(f"k is {k} and rerank_top {rerank_top}; ask for at least one photo")
        found = self.search(query, max(k, rerank_top), exact=exact, folder=folder, hubness=corrected)
        return reranked(found, text, rerank)[:k]

    def search_image(
        self, image: str | Path | Image.Image, k: int = 10, *, exact: bool = False, folder: str = ""
    ) -> list[Hit]:
        """The ``k`` photos most like a picture; see :meth:`search`.

        They are compared by the uni-modal heads where model and index have them, else by the cosine of the embeddings
        made for photos and texts; :meth:`compared` tells.
        """
        way = self.compared("image")
        query = self.encode_image(image, way.space)
        return self.search(query, k, exact=exact, folder=folder, cosine=way.cosine, space=way.space)

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        *,
        exact: bool = False,
        folder: str = "",
        cosine: bool = False,
        space: Space = "cross",
        hubness: bool = False,
    ) -> list[Hit]:
        """The photos of largest inner product with any of the query vectors, best first, equal ones by file.

        A model is trained for inner products of texts and images, and its embeddings need not be of unit norm. Two
        images are better compared by their uni-modal embeddings, which are, or else by ``cosine``: by inner product a
        photo need not be the one most like itself.

        Args:
            queries: ``(Q, D)``, or ``(Q, E)`` in the uni-modal space.
            k: hits at most.
            exact: compare with every photo; without, large indexes use a graph that may miss a few of 1000.
            folder: only photos in this folder, relative to the photo folder.
            cosine: of the ``4 k`` photos of largest inner product (at least 64) those of largest cosine; scores are
                cosines then.
            space: ``"cross"``, or ``"uni"`` for pictures embedded by the uni-modal head.
            hubness: order texts' hits by scores corrected by the index's query bank: less T log mean exp(score / T)
                over the bank's texts, the inverted softmax of QB-Norm (Bogolin et al., CVPR 2022).

        Raises:
            CrossAlignError: ``k`` is below 1, the queries are not ``D`` wide, or the index lacks what is asked for.
        """
        if hubness and (self.manifest.bank is None or space != "cross" or cosine):
            raise CrossAlignError(
                "the index has no query bank to correct scores with; make one of TEXTS: "
                + index_command(self.manifest, self.place, rebuild=True, bank="TEXTS")
                if self.manifest.bank is None
                else "the query bank holds texts: it corrects how texts find photos, not pictures"
            )
        found = self._nearest(
            queries,
            k,
            exact=exact,
            prefix=folder_prefix(folder),
            cosine=cosine,
            space=space,
            corrected=hubness,
        )
        hits = []
        for rank, hit in enumerate(found, start=1):
            path = self.photos / hit.id
            width, height = hit.payload["width"], hit.payload["height"]
            hits.append(Hit(rank, hit.score, hit.id, path, width, height, missing=not path.is_file()))
        return hits
