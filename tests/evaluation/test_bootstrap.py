"""Bootstrap intervals cover the truth about as often as they claim, though captions depend on their image."""

from __future__ import annotations

import numpy as np
import pytest
from plain_retrieval import random_table

from crossalign.errors import CrossAlignError
from crossalign.evaluation import RankTable, bootstrap_intervals
from crossalign.evaluation.bootstrap import image_draws


def test_coverage_with_captions_that_depend_on_their_image() -> None:
    random = np.random.default_rng(0)
    owner = np.repeat(np.arange(60), 5)
    covered = {"t2i_r1": 0, "i2t_r1": 0}
    for trial in range(250):
        # Half of all images are easy: of their captions 80 % are right, of the others' 20 %; in all 50 %.
        easy = np.where(random.random(60) < 0.5, 0.8, 0.2)
        t2i = np.where(random.random(300) < easy[owner], 1, 20)
        i2t = np.where(random.random(60) < 0.5, 1, 20)
        intervals = bootstrap_intervals(RankTable(i2t, t2i, owner), resamples=200, seed=trial)
        for name in covered:
            low, high = intervals[name]
            covered[name] += low <= 50 <= high
    # Drawing captions one by one would cover near 80 % only.
    assert 0.90 <= covered["t2i_r1"] / 250 <= 0.985
    assert 0.90 <= covered["i2t_r1"] / 250 <= 0.985


def test_draws_stay_in_their_fold() -> None:
    draws = list(image_draws(12, 3, 150, seed=1))
    assert sum(len(part) for part in draws) == 150
    counts = np.concatenate(draws).reshape(150, 3, 4)
    assert (counts.sum(axis=2) == 4).all()
    assert counts.max() > 1
    assert counts.mean(axis=0) == pytest.approx(1, abs=0.25)


def test_interval_holds_the_value_and_is_reproducible() -> None:
    table = random_table(0, images=60, folds=2)
    first, second = (bootstrap_intervals(table, resamples=300, seed=3) for _ in range(2))
    assert first == second != bootstrap_intervals(table, resamples=300, seed=4)
    for name, value in table.metrics().items():
        low, high = first[name]
        assert low <= value <= high
        assert low < high or name.endswith("medr")
    wide = bootstrap_intervals(table, resamples=300, seed=3, confidence=0.99)
    assert wide["rsum"][0] < first["rsum"][0] < first["rsum"][1] < wide["rsum"][1]


def test_unusable_settings_are_refused() -> None:
    for settings in ({"confidence": 1.0}, {"confidence": 0.0}, {"resamples": 0}):
        with pytest.raises(CrossAlignError, match="resampling needs"):
            bootstrap_intervals(random_table(0), **settings)
