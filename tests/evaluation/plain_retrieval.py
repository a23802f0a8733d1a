"""Retrieval ranks in plain loops, and results made of random ranks."""

from __future__ import annotations

import numpy as np

from crossalign.evaluation.bootstrap import bootstrap_intervals
from crossalign.evaluation.metrics import RankTable
from crossalign.evaluation.results import RetrievalResult


def plain_ranks(scores: np.ndarray, owner: np.ndarray) -> tuple[list[int], list[int]]:
    """Ranks from a full matrix of scores ``(images, captions)``; ties count against the query."""
    images, captions = scores.shape
    i2t, t2i = [], []
    for i in range(images):
        best = max(scores[i, c] for c in range(captions) if owner[c] == i)
        i2t.append(1 + sum(scores[i, c] >= best for c in range(captions) if owner[c] != i))
    for c in range(captions):
        own = scores[owner[c], c]
        t2i.append(1 + sum(scores[i, c] >= own for i in range(images) if i != owner[c]))
    return i2t, t2i


def random_table(
    seed: int, images: int = 30, folds: int = 1, chance: float = 0.3, owner: np.ndarray | None = None
) -> RankTable:
    """Geometric ranks; unequal numbers of captions, the same for every seed, unless ``owner`` is given."""
    random = np.random.default_rng(seed)
    if owner is None:
        owner = np.repeat(np.arange(images), 1 + np.arange(images) % 4)
    return RankTable(random.geometric(chance, images), random.geometric(chance, len(owner)), owner, folds)


def result_of(table: RankTable, **settings: str) -> RetrievalResult:
    """A result with few resamples, of collection "tiny", split "test"."""
    intervals = bootstrap_intervals(table, resamples=50)
    names = {"collection": "tiny", "split": "test", "model": "0" * 64, "command": "crossalign evaluate"}
    return RetrievalResult(table, intervals, 0.95, 50, 0, **(names | settings))
