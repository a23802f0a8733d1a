"""Rank correlation of a model's similarities with human judgements: Spearman, Kendall, and sampled Spearman."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from crossalign.errors import CrossAlignError, missing_extra

__all__ = ["SampledCorrelation", "kendall", "sampled_spearman", "spearman"]


def spearman(similarity: ArrayLike, judgement: ArrayLike) -> float:
    """Spearman's rank correlation, in percent; ties share their mean rank.

    A model that gives all pairs one similarity ranks nothing: 0, where the formula is undefined.

    Raises:
        CrossAlignError: different lengths, fewer than two pairs, values that are not finite.
    """
    first, second = _pair(similarity, judgement)
    return _spearman(first, second)


def kendall(similarity: ArrayLike, judgement: ArrayLike, variant: Literal["b", "c"]) -> float:
    """Kendall's rank correlation, in percent: tau-b, or Stuart's tau-c for scales of few steps.

    A model that gives all pairs one similarity ranks nothing: 0, where the formula is undefined.

    Raises:
        CrossAlignError: different lengths, fewer than two pairs, values that are not finite.
    """
    first, second = _pair(similarity, judgement)
    if _constant(first) or _constant(second):
        return 0.0
    return 100 * float(_stats().kendalltau(first, second, variant=variant).statistic)


@dataclass(frozen=True)
class SampledCorrelation:
    """Mean and standard deviation over the samples, in percent."""

    mean: float
    deviation: float
    samples: int


def sampled_spearman(
    query: ArrayLike, similarity: ArrayLike, judgement: ArrayLike, *, samples: int = 1000, seed: int = 0
) -> SampledCorrelation:
    """Spearman where the judged pairs of one query hang together: the protocol of Crisscrossed Captions.

    Each sample draws half of the queries without replacement and one judged pair of each; the correlation is the mean
    over the samples (Parekh et al., Crisscrossed Captions, EACL 2021, on correlation).

    Args:
        query: ``(p,)`` what each pair's query is, as numbers.
        similarity, judgement: ``(p,)`` what the model and what people say of each pair.

    Raises:
        CrossAlignError: as :func:`spearman`, or fewer than four queries.
    """
    first, second = _pair(similarity, judgement)
    _, number, counts = np.unique(np.asarray(query), return_inverse=True, return_counts=True)
    if len(number) != len(first):
        raise CrossAlignError(f"correlation: {len(number)} queries for {len(first)} pairs; give one a pair")
    if len(counts) < 4:
        raise CrossAlignError(f"correlation: {len(counts)} queries; half of them must be two at least")
    order = np.argsort(number, kind="stable")
    start = np.cumsum(counts) - counts
    random = np.random.default_rng(seed)
    values = np.empty(samples)
    for sample in range(samples):
        chosen = random.choice(len(counts), len(counts) // 2, replace=False)
        pairs = order[start[chosen] + random.integers(counts[chosen])]
        values[sample] = _spearman(first[pairs], second[pairs])
    return SampledCorrelation(float(values.mean()), float(values.std()), samples)


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    if _constant(first) or _constant(second):
        return 0.0
    ranks = _stats().rankdata(np.stack([first, second]), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    return 100 * float(ranks[0] @ ranks[1] / np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))


def _constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


def _pair(similarity: ArrayLike, judgement: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(similarity, np.float64), np.asarray(judgement, np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise CrossAlignError(
            f"correlation: similarities {first.shape} and judgements {second.shape}; give two or more, (p,) twice"
        )
    for name, values in (("similarities", first), ("judgements", second)):
        damaged = int((~np.isfinite(values)).sum())
        if damaged:
            raise CrossAlignError(f"correlation: {damaged} of {len(values)} {name} are NaN or infinite")
    return first, second


def _stats() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from scipy import stats
    except ImportError:
        raise missing_extra("scipy", "suite", "a rank correlation") from None
    return stats
