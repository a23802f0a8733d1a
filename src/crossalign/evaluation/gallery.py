"""An encoded split and the way its ranks come about: from embeddings, from scores of pairs, or from both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import ArrayLike

from crossalign.errors import CrossAlignError
from crossalign.evaluation.inputs import Embeddings, numpy_embeddings, pieces
from crossalign.evaluation.metrics import RECALL_AT, RankTable, check_owner, fold_size
from crossalign.evaluation.ranks import Ranks, retrieval_ranks
from crossalign.evaluation.score_ranks import Shortlist, ranks_of_scores, reranked
from crossalign.scorers.base import Scorer
from crossalign.scorers.blocks import PackedUnits, score_blocks, score_pairs
from crossalign.truncation import truncate

__all__ = ["EmbeddingGallery", "Gallery", "RerankedGallery", "ScoredGallery", "gallery_table"]

Positions = npt.NDArray[np.int64]

_QUERIES = 1024
"""Queries whose scores with the whole gallery exist at a time."""


class Gallery(Protocol):
    """Images and texts that are each other's queries."""

    def ranks(self, image_of_text: ArrayLike) -> Ranks:
        """Where each query's own item stands."""
        ...

    def part(self, images: Positions, texts: Positions) -> Gallery:
        """The gallery of some of them."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Images and texts."""
        ...


@dataclass(frozen=True)
class EmbeddingGallery:
    """Images ``(B, D)`` or ``(B, V, D)`` and texts ``(C, D)``, compared by inner product."""

    image: Embeddings
    text: Embeddings

    def ranks(self, image_of_text: ArrayLike) -> Ranks:
        return retrieval_ranks(self.image, self.text, image_of_text)

    def part(self, images: Positions, texts: Positions) -> EmbeddingGallery:
        return EmbeddingGallery(numpy_embeddings(self.image)[images], numpy_embeddings(self.text)[texts])

    @property
    def size(self) -> tuple[int, int]:
        return len(self.image), len(self.text)

    def truncated(self, width: int, parts: int = 1) -> EmbeddingGallery:
        """The gallery of the embeddings cut to ``width``; see :func:`~crossalign.truncation.truncate`."""
        image, text = (torch.as_tensor(numpy_embeddings(given)) for given in (self.image, self.text))
        return EmbeddingGallery(truncate(image, width, parts), truncate(text, width, parts))

    def shortlist(self, top: int) -> Shortlist:
        """The ``top`` best of every query, in both directions."""
        image = torch.as_tensor(numpy_embeddings(self.image)).float()
        text = torch.as_tensor(numpy_embeddings(self.text)).float()
        views = image.reshape(len(image), -1, image.shape[-1])
        texts_of_image = [
            torch.einsum("nvd,md->nvm", views[part], text).amax(dim=1).topk(min(top, len(text))).indices
            for part in pieces(len(image), _QUERIES)
        ]
        images_of_text = [
            torch.einsum("md,nvd->mnv", text[part], views).amax(dim=2).topk(min(top, len(image))).indices
            for part in pieces(len(text), _QUERIES)
        ]
        return Shortlist(torch.cat(texts_of_image).numpy(), torch.cat(images_of_text).numpy())


@dataclass(frozen=True)
class ScoredGallery:
    """Regions and words that a scorer compares pair by pair."""

    scorer: Scorer[Any]
    images: PackedUnits
    texts: PackedUnits
    progress: bool = False

    def ranks(self, image_of_text: ArrayLike) -> Ranks:
        scores = score_blocks(self.scorer, self.images, self.texts, progress=self.progress)
        return ranks_of_scores(scores.numpy(), image_of_text)

    def part(self, images: Positions, texts: Positions) -> ScoredGallery:
        return ScoredGallery(
            self.scorer,
            self.images.reordered(torch.from_numpy(images)),
            self.texts.reordered(torch.from_numpy(texts)),
            self.progress,
        )

    @property
    def size(self) -> tuple[int, int]:
        return len(self.images), len(self.texts)


@dataclass(frozen=True)
class RerankedGallery:
    """Embeddings find the ``top`` best of every query, a scorer puts them into order.

    Raises:
        CrossAlignError: the two do not hold as many images and texts.
    """

    fast: EmbeddingGallery
    slow: ScoredGallery
    top: int

    def __post_init__(self) -> None:
        if self.top < 1:
            raise CrossAlignError(f"re-ranking the best {self.top} makes no sense; give a positive number")
        if self.fast.size != self.slow.size:
            raise CrossAlignError(
                f"re-ranking: {self.fast.size} images and texts are embedded, {self.slow.size} have units"
            )

    def ranks(self, image_of_text: ArrayLike) -> Ranks:
        shortlist = self.fast.shortlist(self.top)
        scores = score_pairs(
            self.slow.scorer,
            self.slow.images,
            self.slow.texts,
            torch.from_numpy(shortlist.image),
            torch.from_numpy(shortlist.text),
            progress=self.slow.progress,
        )
        return reranked(self.fast.ranks(image_of_text), shortlist, scores.numpy(), image_of_text)

    def part(self, images: Positions, texts: Positions) -> RerankedGallery:
        return RerankedGallery(self.fast.part(images, texts), self.slow.part(images, texts), self.top)

    @property
    def size(self) -> tuple[int, int]:
        return self.fast.size


def gallery_table(
    gallery: Gallery, image_of_text: ArrayLike, *, ks: Sequence[int] = RECALL_AT, folds: int = 1
) -> RankTable:
    """The ranks of all queries; each fold is a gallery of its own.

    Raises:
        CrossAlignError: an image without a caption, images that do not divide into the folds.
    """
    if folds == 1:
        ranks = gallery.ranks(image_of_text)
        return RankTable(ranks.i2t, ranks.t2i, np.asarray(image_of_text, np.int64), 1, tuple(ks))
    count, texts = gallery.size
    size = fold_size(count, folds)
    owner = check_owner(image_of_text, count, texts)
    i2t, t2i = np.empty(count, np.int64), np.empty(texts, np.int64)
    for start in range(0, count, size):
        mine = np.flatnonzero((owner >= start) & (owner < start + size))
        ranks = gallery.part(np.arange(start, start + size), mine).ranks(owner[mine] - start)
        i2t[start : start + size], t2i[mine] = ranks.i2t, ranks.t2i
    return RankTable(i2t, t2i, owner, folds, tuple(ks))
