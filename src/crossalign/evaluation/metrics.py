"""Recall and rank metrics, computed from ranks alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from crossalign.errors import CrossAlignError

__all__ = ["RECALL_AT", "RankTable", "check_owner", "fold_size"]

RECALL_AT = (1, 5, 10)
"""The usual cut-offs of recall."""


@dataclass(frozen=True, eq=False)
class RankTable:
    """The ranks of all queries of one evaluation and what is computed from them.

    Attributes:
        i2t: ``(images,)`` rank of each image's best caption.
        t2i: ``(captions,)`` rank of each caption's image.
        image_of_text: ``(captions,)`` position of each caption's image.
        folds: contiguous runs of images, equally long, that were ranked apart; every metric is the mean over
            them.
        ks: cut-offs of recall.

    Raises:
        CrossAlignError: arrays that do not fit each other, ranks below 1, images that do not divide into the
            folds.
    """

    i2t: np.ndarray
    t2i: np.ndarray
    image_of_text: np.ndarray
    folds: int = 1
    ks: tuple[int, ...] = RECALL_AT

    def __post_init__(self) -> None:
        check_owner(self.image_of_text, len(self.i2t), len(self.t2i))
        if min(self.i2t.min(), self.t2i.min()) < 1:
            raise CrossAlignError("ranks start from 1, found a smaller one")
        fold_size(len(self.i2t), self.folds)
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) < len(self.ks):
            raise CrossAlignError(f"recall needs different cut-offs from 1 on, found {list(self.ks)}")

    @property
    def recall_names(self) -> tuple[str, ...]:
        """The names of the recalls, such as ``i2t_r1``: image-to-text first, in the order of the cut-offs."""
        return tuple(f"{way}_r{k}" for way in ("i2t", "t2i") for k in self.ks)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all metrics, in the order of ``weighted``."""
        return (*self.recall_names, "i2t_medr", "t2i_medr", "i2t_meanr", "t2i_meanr", "rsum")

    def metrics(self) -> dict[str, float]:
        """Recalls in percent, median and mean ranks in both directions, and the recalls' sum ``rsum``."""
        once = np.ones((1, len(self.i2t)), dtype=np.int32)
        return dict(zip(self.names, self.weighted(once)[0].tolist(), strict=True))

    def contributions(self) -> np.ndarray:
        """What each image with its captions adds to each recall and to their sum, ``rsum``.

        Float64 ``(images, recalls + 1)`` in percent; the sum over the images is the metric.
        """
        sums, captions = self._sums(), self._captions()
        size = fold_size(len(self.i2t), self.folds)
        in_fold = np.repeat(captions.reshape(self.folds, size).sum(axis=1), size)
        parts = np.concatenate([sums[:, 0:-2:2] / size, sums[:, 1:-2:2] / in_fold[:, None]], axis=1)
        parts *= 100 / self.folds
        return np.concatenate([parts, parts.sum(axis=1, keepdims=True)], axis=1)

    def weighted_recalls(self, weights: np.ndarray) -> np.ndarray:
        """The recalls and their sum where each image with its captions stands several times.

        From whole weights ``(n, images)``, those of a fold summing to its number of images, to percent
        ``(n, recalls + 1)``.
        """
        totals = self._means(weights)[:, :-2]
        recalls = 100 * np.concatenate([totals[:, 0::2], totals[:, 1::2]], axis=1)
        return np.concatenate([recalls, recalls.sum(axis=1, keepdims=True)], axis=1)

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """All metrics for weights as in ``weighted_recalls``: ``(n, images)`` to ``(n, metrics)``."""
        recalls, medians = self.weighted_recalls(weights), np.zeros((len(weights), 2))
        for fold in self._folds():
            mine = np.flatnonzero((self.image_of_text >= fold.start) & (self.image_of_text < fold.stop))
            medians[:, 0] += _weighted_median(self.i2t[fold], weights[:, fold])
            medians[:, 1] += _weighted_median(self.t2i[mine], weights[:, self.image_of_text[mine]])
        mean_ranks = self._means(weights)[:, -2:]
        return np.concatenate([recalls[:, :-1], medians / self.folds, mean_ranks, recalls[:, -1:]], axis=1)

    def _folds(self) -> list[slice]:
        size = fold_size(len(self.i2t), self.folds)
        return [slice(start, start + size) for start in range(0, len(self.i2t), size)]

    def _means(self, weights: np.ndarray) -> np.ndarray:
        """Weighted means of the ``_sums``, over a fold's queries and then over folds: ``(n, columns)``."""
        sums, captions = self._sums(), self._captions()
        means = np.zeros((len(weights), sums.shape[1]))
        for fold in self._folds():
            part = weights[:, fold].astype(np.float64)
            totals = part @ sums[fold]
            totals[:, 0::2] /= fold.stop - fold.start
            totals[:, 1::2] /= (part @ captions[fold])[:, None]
            means += totals
        return means / self.folds

    def _captions(self) -> np.ndarray:
        """How many captions each image has."""
        return np.bincount(self.image_of_text, minlength=len(self.i2t)).astype(np.float64)

    def _sums(self) -> np.ndarray:
        """For each image, in turn its own value and the sum of its captions': hits for each k, then ranks."""
        images, columns = len(self.i2t), []
        for own, of_caption in (*((self.i2t <= k, self.t2i <= k) for k in self.ks), (self.i2t, self.t2i)):
            columns += [own, np.bincount(self.image_of_text, of_caption, minlength=images)]
        return np.stack(columns, axis=1).astype(np.float64)


def fold_size(images: int, folds: int) -> int:
    """How many images a fold holds.

    Raises:
        CrossAlignError: the images do not divide into so many folds.
    """
    if folds < 1 or images % folds or images < folds:
        raise CrossAlignError(
            f"{images} images do not divide into {folds} folds of equal size; use another number of folds"
        )
    return images // folds


def check_owner(image_of_text: ArrayLike, images: int, captions: int) -> np.ndarray:
    """The image of each caption as int64 ``(captions,)``, every image having at least one.

    Raises:
        CrossAlignError: a wrong shape or type, a position outside the images, an image without a caption.
    """
    owner = np.asarray(image_of_text)
    if owner.shape != (captions,) or not np.issubdtype(owner.dtype, np.integer):
        raise CrossAlignError(
            f"image_of_text must hold one whole number for each of the {captions} texts,"
            f" found {owner.dtype} of shape {owner.shape}"
        )
    if captions and (owner.min() < 0 or owner.max() >= images):
        raise CrossAlignError(
            f"image_of_text must lie in 0..{images - 1}, found {owner.min()}..{owner.max()}"
        )
    bare = np.flatnonzero(np.bincount(owner, minlength=images) == 0)
    if len(bare):
        raise CrossAlignError(
            f"{len(bare)} of {images} images have no caption (the first is image {bare[0]});"
            " leave them out of the evaluation"
        )
    return owner.astype(np.int64)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The median where each value stands as often as its weight says: ``(m,)`` and ``(n, m)`` to ``(n,)``."""
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(weights[:, order], axis=1, dtype=np.int32)
    total, values = ends[:, -1], values[order]
    middles = [(ends <= place[:, None]).sum(axis=1) for place in ((total - 1) // 2, total // 2)]
    return (values[middles[0]] + values[middles[1]]) / 2
