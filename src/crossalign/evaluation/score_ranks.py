"""Ranks from scores of pairs: of all of them, or of the best that another model has found."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from crossalign.errors import CrossAlignError
from crossalign.evaluation.metrics import check_owner
from crossalign.evaluation.ranks import Ranks

__all__ = ["Shortlist", "ranks_of_scores", "reranked"]


def ranks_of_scores(scores: np.ndarray, image_of_text: ArrayLike) -> Ranks:
    """Rank each query's own item by given scores, as :func:`~crossalign.evaluation.ranks.retrieval_ranks` does by
    embeddings: every tie counts against it.

    Args:
        scores: ``(B, C)`` of every image with every text.
        image_of_text: ``(C,)``, for each caption the position of its image.

    Raises:
        CrossAlignError: scores that do not fit or hold NaN, an image without a caption.
    """
    if scores.ndim != 2:
        raise CrossAlignError(f"scores must be (images, texts), found {scores.shape}")
    owner = check_owner(image_of_text, *scores.shape)
    if np.isnan(scores).any():
        raise CrossAlignError("scores: some are NaN; check the model and its inputs")
    texts = np.arange(len(owner))
    own = scores[owner, texts]
    best = np.full(len(scores), -np.inf, scores.dtype)
    np.maximum.at(best, owner, own)
    # Its own item reaches the bound, too: that is the one in the rank.
    t2i = np.count_nonzero(scores >= own, axis=0)
    i2t = np.empty(len(scores), np.int64)
    own_at_best = np.bincount(owner, own >= best[owner], minlength=len(scores)).astype(np.int64)
    for row, values in enumerate(scores):
        i2t[row] = 1 + np.count_nonzero(values >= best[row]) - own_at_best[row]
    return Ranks(i2t=i2t, t2i=t2i.astype(np.int64))


class Shortlist:
    """The pairs that a slow model scores: for each query of both directions the best that a fast one found.

    Args:
        texts_of_image: ``(B, k)`` texts that the fast model puts first for each image.
        images_of_text: ``(C, k)`` images that it puts first for each text.

    Attributes:
        image: ``(p,)`` int64, image of each different pair, sorted.
        text: ``(p,)`` int64, text of each pair.
    """

    def __init__(self, texts_of_image: np.ndarray, images_of_text: np.ndarray) -> None:
        self.texts_of_image, self.images_of_text = texts_of_image, images_of_text
        width = len(images_of_text)
        by_image = np.arange(len(texts_of_image))[:, None] * width + texts_of_image
        by_text = images_of_text * width + np.arange(width)[:, None]
        both = np.concatenate([by_image.reshape(-1), by_text.reshape(-1)])
        pairs, places = np.unique(both, return_inverse=True)
        self.image, self.text = np.divmod(pairs, width)
        self._by_image = places[: by_image.size].reshape(by_image.shape)
        self._by_text = places[by_image.size :].reshape(by_text.shape)

    def split(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores ``(p,)`` of the pairs as ``(B, k)`` beside ``texts_of_image`` and ``(C, k)``."""
        return scores[self._by_image], scores[self._by_text]


def reranked(fast: Ranks, shortlist: Shortlist, scores: np.ndarray, image_of_text: ArrayLike) -> Ranks:
    """Ranks after the best of a fast model have been put into a slow one's order; all others stay behind them.

    Args:
        fast: the fast model's ranks.
        shortlist: the best k of each query.
        scores: ``(p,)`` of the shortlist's pairs by the slow model; ties count against the query's own item.
        image_of_text: ``(C,)``, for each caption the position of its image.
    """
    if np.isnan(scores).any():
        raise CrossAlignError("scores: some are NaN; check the re-ranking model and its inputs")
    owner = np.asarray(image_of_text)
    of_image, of_text = shortlist.split(scores)
    own_text = owner[shortlist.texts_of_image] == np.arange(len(of_image))[:, None]
    own_image = shortlist.images_of_text == owner[:, None]
    return Ranks(
        i2t=_within(of_image, own_text, fast.i2t),
        t2i=_within(of_text, own_image, fast.t2i),
    )


def _within(scores: np.ndarray, own: np.ndarray, fast: np.ndarray) -> np.ndarray:
    """Ranks ``(n,)`` from scores ``(n, k)`` and which of them are the query's own; without any, the fast rank."""
    best = np.where(own, scores, -np.inf).max(axis=1, keepdims=True)
    ahead = 1 + np.count_nonzero((scores >= best) & ~own, axis=1)
    # Where the fast model's tie was cut off, all k stand before the query's own item.
    ranks: np.ndarray = np.where(own.any(axis=1), ahead, np.maximum(fast, scores.shape[1] + 1))
    return ranks
