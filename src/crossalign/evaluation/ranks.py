"""The rank of every query's own item, counted in blocks of scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike

from crossalign.errors import CrossAlignError
from crossalign.evaluation.inputs import Embeddings, check_inputs, pieces

__all__ = ["Ranks", "retrieval_ranks"]

_LARGEST_BLOCK = 2**16 - 1

_ROWS, _TILE = 512, 32
"""Rows that a thread takes at a time, and those of them it compares at a time, small enough for its cache."""

_PAIRS, _CACHED = 1024, 64
"""Pairs that a thread scores at a time in float64, and those of them it copies at a time."""

_FEW = 12
"""Where more than one score in so many reaches a bound, all are compared instead of the places gathered."""
_DENSE = 64
"""Where more than one score in so many is too close to call, the whole block is computed in float64."""


@dataclass(frozen=True)
class Ranks:
    """Where each query's own item stands; 1 is the best.

    Attributes:
        i2t: ``(images,)`` int64, rank of an image's best caption among it and the captions of all other
            images.
        t2i: ``(captions,)`` int64, rank of a caption's image among all images.
    """

    i2t: np.ndarray
    t2i: np.ndarray


def retrieval_ranks(
    image: Embeddings,
    text: Embeddings,
    image_of_text: ArrayLike,
    block: int = 6144,
    threads: int | None = None,
) -> Ranks:
    """Rank each query's own item by inner product; every tie counts against it.

    A rank is one plus the number of other items that score at least as high: for a caption, the other images;
    for an image, the captions of other images against the best of its own. The scores compared are those of
    float64 arithmetic, so the ranks depend neither on the block size nor on the number of threads: one pass
    of float32 blocks decides all scores that rounding cannot confuse with their threshold, and only the rest
    is computed in float64. Scores that float64 cannot tell apart are ties.

    Args:
        image: ``(B, D)`` or ``(B, V, D)``; of V views, the one that fits a caption best counts.
        text: ``(C, D)``.
        image_of_text: ``(C,)``, for each caption the position of its image; captions may stand in any order.
        block: most rows and columns of a score block; all blocks are about as large, the whole matrix never exists.
        threads: threads that compare scores; by default as many as PyTorch uses.

    Raises:
        CrossAlignError: shapes that do not fit, a type that is not floating point, NaN or infinite values, a
            position outside the images, an image without a caption.
    """
    if not 1 <= block <= _LARGEST_BLOCK:
        raise CrossAlignError(f"block must be from 1 to {_LARGEST_BLOCK}, found {block}")
    images, texts, owner, image_norms, text_norms = check_inputs(image, text, image_of_text)
    width = texts.shape[1]
    row_counts, column_counts = np.zeros(len(images), np.int64), np.zeros(len(texts), np.int64)
    height = _even(len(images), max(1, block // images.shape[1]))
    breadth = _even(len(texts), block)
    buffer = np.empty(height * images.shape[1] * breadth, np.float32)
    with _full_precision(), ThreadPoolExecutor(threads or torch.get_num_threads()) as pool:
        every = np.arange(len(texts))
        own = np.concatenate(
            list(
                pool.map(
                    lambda c: _pair_scores(images, texts, owner[c], every[c]), pieces(len(texts), _PAIRS)
                )
            )
        )
        best = np.full(len(images), -np.inf)
        np.maximum.at(best, owner, own)
        rows = _Thresholds.around(best, image_norms * text_norms.max(), width)
        columns = _Thresholds.around(own, text_norms * image_norms.max(), width)
        for i in pieces(len(images), height):
            for c in pieces(len(texts), breadth):
                part = _Block(images[i], texts[c], owner[c] - i.start, rows[i], columns[c])
                found = part.count(buffer, pool.map)
                row_counts[i] += found[0]
                column_counts[c] += found[1]
    return Ranks(i2t=1 + row_counts, t2i=1 + column_counts)


def _even(count: int, most: int) -> int:
    """The size of as few equal pieces as possible: a thin last block would cost more than its share."""
    return -(-count // max(1, -(-count // most)))


@dataclass(frozen=True)
class _Thresholds:
    """What a score must reach to count against a query: ``exact`` for float64 scores; a float32 score below
    ``low`` surely does not reach it, one from ``high`` on surely does."""

    exact: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def around(cls, own: np.ndarray, scale: np.ndarray, width: int) -> _Thresholds:
        # In any order of summation, a sum of n products is off by at most about n units of rounding times the
        # product of both norms (scale). The constants added cover underflow and inputs and
        # bounds rounded to float32.
        exact = own - 4 * width * 2.0**-53 * scale
        margin = (width + 16) * 2.0**-24 / (1 - width * 2.0**-24) * scale + width * 2.0**-125
        return cls(exact, (exact - margin).astype(np.float32), (exact + margin).astype(np.float32))

    def __getitem__(self, piece: slice) -> _Thresholds:
        return _Thresholds(self.exact[piece], self.low[piece], self.high[piece])


@dataclass(frozen=True)
class _Block:
    """Some images ``(B, V, D)`` against some texts ``(C, D)``; ``owner`` counts from the first image."""

    images: np.ndarray
    texts: np.ndarray
    owner: np.ndarray
    rows: _Thresholds
    columns: _Thresholds

    def count(self, buffer: np.ndarray, run: Callable[..., Iterator]) -> tuple[np.ndarray, np.ndarray]:
        """How many scores reach the threshold of each row ``(B,)`` and of each column ``(C,)``.

        ``buffer`` is memory for the scores; ``run`` maps a function over pieces, in threads.
        """
        scores = self._scores(np.float32, buffer)
        parts = list(run(partial(self._count_sure, scores), pieces(len(scores), _ROWS)))
        close = np.concatenate([part[2] for part in parts])
        if len(close) * _DENSE > scores.size:
            return self._count_double()
        row_counts = np.concatenate([part[0] for part in parts])
        column_counts = np.add.reduce([part[1] for part in parts], axis=0)
        row, column = np.divmod(close, scores.shape[1])
        for here, adds_to_row, adds_to_column in run(
            lambda here: (here, *self._count_close(scores, row[here], column[here])), pieces(len(row), _PAIRS)
        ):
            row_counts += np.bincount(row[here][adds_to_row], minlength=len(row_counts))
            column_counts += np.bincount(column[here][adds_to_column], minlength=len(column_counts))
        return row_counts, column_counts

    def _scores(self, dtype: DTypeLike, buffer: np.ndarray | None = None) -> np.ndarray:
        """Scores ``(B, C)`` by one matrix product, each image's best view; own pairs minus infinity."""
        views = self.images.shape[1]
        # Memory that cannot be written, such as a memory map's, is copied: torch.from_numpy warns of it.
        left = torch.from_numpy(np.require(self.images.reshape(-1, self.images.shape[2]), dtype, ["C", "W"]))
        right = torch.from_numpy(np.require(self.texts, dtype, ["C", "W"]))
        size = len(left) * len(right)
        out = None if buffer is None else torch.from_numpy(buffer[:size]).view(len(left), len(right))
        scores = torch.mm(left, right.t(), out=out).numpy()
        if views > 1:
            scores = scores.reshape(-1, views, scores.shape[1]).max(axis=1)
        mine = np.flatnonzero((self.owner >= 0) & (self.owner < len(scores)))
        scores[self.owner[mine], mine] = -np.inf
        return scores

    def _count_sure(self, scores: np.ndarray, stripe: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts for a stripe's rows and for all columns, and where in the block scores are too close."""
        row_counts, column_counts, close_at = [], np.zeros(scores.shape[1], dtype=np.int64), []
        count = self._count_few
        for start in range(stripe.start, stripe.stop, _TILE):
            tile = slice(start, min(start + _TILE, stripe.stop))
            found = count(scores[tile], self.rows[tile])
            if found is None:
                # Little is learnt from one tile to the next: what is dense here is dense below.
                count = self._count_many
                found = count(scores[tile], self.rows[tile])
            row_counts.append(found[0])
            column_counts += found[1]
            close_at.append(found[2] + start * scores.shape[1])
        return np.concatenate(row_counts, dtype=np.int64), column_counts, np.concatenate(close_at)

    def _count_few(
        self, part: np.ndarray, rows: _Thresholds
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Counts of a tile and the places of its close scores, by looking only at the scores that reach a lower
        bound; None where these are not few, as in an untrained model."""
        columns = self.columns
        reached = np.greater_equal(part, columns.low)
        reached |= np.greater_equal(part, rows.low[:, None])
        places = np.flatnonzero(reached)
        if len(places) * _FEW > reached.size:
            return None
        scores = part.reshape(-1)[places]
        row, column = np.divmod(places, part.shape[1])
        in_row, in_column = scores >= rows.high[row], scores >= columns.high[column]
        close = (scores >= rows.low[row]) & ~in_row
        close |= (scores >= columns.low[column]) & ~in_column
        return (
            np.bincount(row[in_row], minlength=len(part)),
            np.bincount(column[in_column], minlength=part.shape[1]),
            places[close],
        )

    def _count_many(self, part: np.ndarray, rows: _Thresholds) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same by comparing every score with every bound."""
        # Sums in the narrowest type that holds them: a tile's height in a byte, a block's width in two.
        reached = np.greater_equal(part, self.columns.high)
        column_counts = np.add.reduce(reached.view(np.uint8), axis=0, dtype=np.uint8)
        close = np.greater_equal(part, self.columns.low)
        close ^= reached
        np.greater_equal(part, rows.high[:, None], out=reached)
        row_counts = np.add.reduce(reached.view(np.uint8), axis=1, dtype=np.uint16)
        reached ^= np.greater_equal(part, rows.low[:, None])
        close |= reached
        return row_counts, column_counts, np.flatnonzero(close)

    def _count_close(
        self, scores: np.ndarray, row: np.ndarray, column: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each pair, whether its float64 score adds to its row's and to its column's count."""
        exact, rough = _pair_scores(self.images, self.texts, row, column), scores[row, column]
        adds_to_row = (exact >= self.rows.exact[row]) & (rough < self.rows.high[row])
        adds_to_column = (exact >= self.columns.exact[column]) & (rough < self.columns.high[column])
        return adds_to_row, adds_to_column

    def _count_double(self) -> tuple[np.ndarray, np.ndarray]:
        """All counts of the block from float64 scores, some rows at a time to save memory."""
        row_counts, column_counts = [], np.zeros(len(self.texts), dtype=np.int64)
        for i in pieces(len(self.images), 4 * _ROWS):
            part = _Block(self.images[i], self.texts, self.owner - i.start, self.rows[i], self.columns)
            scores = part._scores(np.float64)
            row_counts.append(np.count_nonzero(scores >= part.rows.exact[:, None], axis=1))
            column_counts += np.count_nonzero(scores >= part.columns.exact, axis=0)
        return np.concatenate(row_counts), column_counts


def _pair_scores(images: np.ndarray, texts: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Float64 scores ``(n,)`` of chosen images ``(B, V, D)`` and texts ``(C, D)``, each image's best view."""
    scores = np.empty(len(row))
    for here in pieces(len(row), _CACHED):
        left, right = images[row[here]], texts[column[here]]
        scores[here] = np.einsum("nvd,nd->nv", left, right, dtype=np.float64).max(axis=1)
    return scores


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep matrix products in full float32: autocast and reduced precision break the error bound."""
    before = torch.backends.mkldnn.set_flags(False, None, None, None)
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.backends.mkldnn.set_flags(before[0], None, None, None)
