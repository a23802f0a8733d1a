"""Bootstrap over images: how far a metric would move with other queries of the same kind."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from crossalign.errors import CrossAlignError
from crossalign.evaluation.metrics import RankTable, fold_size

__all__ = ["bootstrap_intervals", "check_resampling", "image_draws", "percentile_interval"]

_TOGETHER = 64
"""Resamples drawn at a time: the weights of all captions in them stay small."""


def check_resampling(confidence: float, resamples: int) -> None:
    """Refuse settings that give no interval.

    Raises:
        CrossAlignError: a confidence outside 0..1, or less than one resample.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise CrossAlignError(
            "resampling needs a confidence between 0 and 1 and at least 1 resample,"
            f" found {confidence} and {resamples}"
        )


def image_draws(images: int, folds: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image is drawn in each resample: ``(n, images)`` int32, some resamples at a time.

    Images are drawn with replacement within their fold, each with all its captions: captions of one image
    rise and fall together, and drawing them one by one would make the spread too small. The gallery stays as
    it is.
    """
    random, size = np.random.default_rng(seed), fold_size(images, folds)
    first = np.repeat(np.arange(folds) * size, size)
    for start in range(0, resamples, _TOGETHER):
        count = min(_TOGETHER, resamples - start)
        drawn = first + random.integers(0, size, (count, images))
        drawn += np.arange(count)[:, None] * images
        yield np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images).astype(np.int32)


def percentile_interval(samples: np.ndarray, confidence: float) -> np.ndarray:
    """The middle part of the samples: ``(resamples, metrics)`` to ``(metrics, 2)``, lower and upper end."""
    tail = 50 * (1 - confidence)
    return np.percentile(samples, [tail, 100 - tail], axis=0).T


def bootstrap_intervals(
    table: RankTable, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap interval of every metric (Efron and Tibshirani, 1993, chapter 13), resampling
    images.

    Raises:
        CrossAlignError: a confidence outside 0..1, or less than one resample.
    """
    check_resampling(confidence, resamples)
    draws = image_draws(len(table.i2t), table.folds, resamples, seed)
    ends = percentile_interval(np.concatenate([table.weighted(weights) for weights in draws]), confidence)
    return {name: (low, high) for name, (low, high) in zip(table.names, ends.tolist(), strict=True)}
