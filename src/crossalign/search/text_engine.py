"""Searching an index of texts with words or with a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from crossalign.encoding import Space
from crossalign.search.hit import TextHit
from crossalign.search.open_index import OpenIndex
from crossalign.search.store import StoreHit

__all__ = ["TextSearchEngine"]


class TextSearchEngine(OpenIndex):
    """An open index of texts and the model it was made with. Use as a context manager, or close it.

    Example:
        >>> with TextSearchEngine.open("captions.txt.texts.index") as engine:
        ...     captions = engine.search_image("dog.jpg", k=5)
    """

    holds = "texts"

    def search_image(
        self, image: str | Path | Image.Image, k: int = 10, *, exact: bool = False
    ) -> list[TextHit]:
        """The ``k`` texts that fit a picture best, by inner product; see :meth:`search`."""
        return self.search(self.encode_image(image), k, exact=exact)

    def search_text(self, text: str, k: int = 10, *, exact: bool = False) -> list[TextHit]:
        """The ``k`` texts most like a text; see :meth:`search`.

        They are compared by the uni-modal heads where model and index have them, else by the cosine of the embeddings
        made for photos and texts; :meth:`compared` tells.
        """
        way = self.compared("text")
        query = self.encode_text(text, way.space)
        return self.search(query, k, exact=exact, cosine=way.cosine, space=way.space)

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        *,
        exact: bool = False,
        cosine: bool = False,
        space: Space = "cross",
    ) -> list[TextHit]:
        """The texts of largest inner product with any of the query vectors, best first, equal ones by their letters.

        Args:
            queries, k, exact, cosine, space: as for :meth:`crossalign.search.SearchEngine.search`.

        Raises:
            CrossAlignError: ``k`` is below 1, the queries are not ``D`` wide, or the index lacks what is asked for.
        """
        return _text_hits(self._nearest(queries, k, exact=exact, cosine=cosine, space=space))


def _text_hits(found: Sequence[StoreHit]) -> list[TextHit]:
    return [
        TextHit(rank, hit.score, hit.id, tuple(hit.payload["ids"]), tuple(map(Path, hit.payload["photos"])))
        for rank, hit in enumerate(found, start=1)
    ]
