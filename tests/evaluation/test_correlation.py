"""Rank correlations against their definitions in plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from crossalign.errors import CrossAlignError
from crossalign.evaluation.correlation import kendall, sampled_spearman, spearman

pytest.importorskip("scipy")


def mean_ranks(values: np.ndarray) -> np.ndarray:
    return np.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])


def test_spearman_is_pearson_of_mean_ranks() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(size=50), random.integers(0, 5, 50)
    expected = np.corrcoef(mean_ranks(first), mean_ranks(second))[0, 1]
    assert spearman(first, second) == pytest.approx(100 * expected, abs=1e-9)
    assert spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(100)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-100)


def test_kendall_counts_pairs() -> None:
    random = np.random.default_rng(1)
    first, second = np.round(random.normal(size=40), 1), random.integers(1, 5, 40)
    score = tied_first = tied_second = 0
    for i in range(40):
        for j in range(i):
            product = np.sign(first[i] - first[j]) * np.sign(second[i] - second[j])
            score += product
            tied_first += first[i] == first[j]
            tied_second += second[i] == second[j]
    pairs = 40 * 39 / 2
    b = score / np.sqrt((pairs - tied_first) * (pairs - tied_second))
    levels = min(len(set(first)), len(set(second)))
    c = 2 * score / (40**2 * (levels - 1) / levels)
    assert kendall(first, second, "b") == pytest.approx(100 * b)
    assert kendall(first, second, "c") == pytest.approx(100 * c)


def test_a_constant_model_ranks_nothing() -> None:
    assert spearman([1, 1, 1], [1, 2, 3]) == 0
    assert kendall([1, 1, 1], [1, 2, 3], "b") == kendall([1, 2, 3], [2, 2, 2], "c") == 0


def test_a_sample_is_half_of_the_queries_with_one_pair_each() -> None:
    # Within a query the model is always wrong; between queries always right: only one pair of each may be drawn.
    query = np.repeat(np.arange(40), 25)
    within = np.tile(np.arange(25), 40)
    sampled = sampled_spearman(query, 1000 * query - within, 1000 * query + within, samples=20)
    assert sampled.mean == pytest.approx(100)
    assert sampled.deviation == pytest.approx(0, abs=1e-9)
    assert spearman(1000 * query - within, 1000 * query + within) < 99.999


def test_samples_are_those_of_the_seed_and_spread_as_half_the_queries_do() -> None:
    random = np.random.default_rng(0)
    query = random.permutation(np.repeat(np.arange(400), 3))
    judgement = random.normal(size=1200)
    similarity = judgement + random.normal(size=1200)
    first = sampled_spearman(query, similarity, judgement, samples=200, seed=3)
    assert first == sampled_spearman(query, similarity, judgement, samples=200, seed=3)
    assert first.mean != sampled_spearman(query, similarity, judgement, samples=200, seed=4).mean
    assert first.mean == pytest.approx(spearman(similarity, judgement), abs=1.5)
    # About (1 - rho^2) / sqrt(200) for 200 pairs, a little more for ranks.
    assert 2.0 < first.deviation < 6.0


def test_refusals() -> None:
    with pytest.raises(CrossAlignError, match="give two or more"):
        spearman([1], [1])
    with pytest.raises(CrossAlignError, match="1 of 3 similarities are NaN"):
        spearman([1, np.nan, 2], [1, 2, 3])
    with pytest.raises(CrossAlignError, match="half of them must be two"):
        sampled_spearman([0, 0, 1, 1], [1, 2, 3, 4], [1, 2, 3, 4])
