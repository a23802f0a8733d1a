"""Paired tests: right p-values without a difference, small ones with one, and runs that do not fit."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from plain_retrieval import random_table, result_of
from rich.console import Console

from crossalign.errors import CrossAlignError
from crossalign.evaluation import RankTable, compare, compare_groups, comparison_table, result_table
from crossalign.evaluation.results import Reranking
from crossalign.evaluation.significance import permutation_p_values, significance_mark


def test_p_value_of_a_case_worked_out() -> None:
    # Of the 8 sign patterns of 1, 2, 3, two reach the observed 6; 1, 1, -2 sum to 0, which all reach.
    p_values = permutation_p_values(np.array([[1.0, 1], [2, 1], [3, -2]]), resamples=20_000)
    assert p_values[0] == pytest.approx(2 / 8, abs=0.015)
    assert p_values[1] == 1
    assert permutation_p_values(np.zeros((5, 2)), resamples=10).tolist() == [1, 1]


def null_pair(random: np.random.Generator, images: int = 50) -> tuple[RankTable, RankTable]:
    """Two equally good models; captions depend on their image."""
    owner = np.repeat(np.arange(images), 3)
    easy = random.beta(1, 1, images)

    def ranks(chance: np.ndarray) -> np.ndarray:
        return np.where(random.random(len(chance)) < chance, 1, 30)

    return tuple(RankTable(ranks(easy), ranks(easy[owner]), owner) for _ in range(2))


def test_p_values_are_uniform_without_a_difference() -> None:
    random = np.random.default_rng(0)
    p_values = []
    for trial in range(400):
        first, second = null_pair(random)
        differences = second.contributions() - first.contributions()
        p_values.append(permutation_p_values(differences[:, -1:], resamples=199, seed=trial)[0])
    for level in (0.05, 0.1, 0.25, 0.5, 0.75):
        # Four standard deviations of a share among 400; ties make the test a little too careful.
        slack = 4 * np.sqrt(level * (1 - level) / 400)
        assert level - slack - 0.03 <= np.mean(np.array(p_values) <= level) <= level + slack


def test_clear_difference_is_found_and_none_is_not() -> None:
    worse, better = (
        result_of(random_table(0, images=200, chance=0.2)),
        random_table(1, images=200, chance=0.5),
    )
    comparison = compare(worse, result_of(better), resamples=2000)
    for row in comparison.differences:
        assert row.difference == pytest.approx(better.metrics()[row.metric] - worse.metrics[row.metric])
        assert row.low < row.difference < row.high
    found = {row.metric: row for row in comparison.differences}
    assert list(found) == [*better.recall_names, "rsum"]
    assert found["rsum"].p_value == pytest.approx(1 / 2001)
    assert found["rsum"].low > 0
    same = compare(worse, worse, resamples=100)
    assert all((row.p_value, row.difference, row.low, row.high) == (1, 0, 0, 0) for row in same.differences)
    back = compare(result_of(better), worse, resamples=2000)
    assert back.differences[-1].difference == -found["rsum"].difference
    assert back.differences[-1].p_value == found["rsum"].p_value


def test_groups_by_hand() -> None:
    owner = np.arange(4)

    def run(hits: list[int]) -> RankTable:
        ranks = np.where(np.array(hits), 1, 50)
        return RankTable(ranks, ranks, owner, ks=(1,))

    baselines = [result_of(run([1, 0, 0, 0])), result_of(run([1, 1, 1, 0]))]  # 25 and 75
    candidates = [result_of(run(hits)) for hits in ([1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1])]  # 75, 100, 75
    row = compare_groups(baselines, candidates, resamples=4000).differences[0]
    assert (row.baseline, row.candidate) == pytest.approx((50, 250 / 3))
    assert row.baseline_sd == pytest.approx(np.sqrt(2) * 25)
    assert row.candidate_sd == pytest.approx(np.sqrt(2 * (25 / 3) ** 2 + (50 / 3) ** 2) / np.sqrt(2))
    # Means over seeds differ for the images by -1/3, 1/2, 1/2, 2/3, in sum 4/3. Four of the 16 sign patterns
    # reach it: these signs, all plus, and the mirror images of both.
    assert row.p_value == pytest.approx(4 / 16, abs=0.03)


def test_difference_interval_covers_the_truth() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(150):
        first, second = null_pair(random)
        row = compare(result_of(first), result_of(second), resamples=200, seed=trial).differences[-1]
        covered += row.low <= 0 <= row.high
    assert 0.88 <= covered / 150 <= 0.99


def test_unlike_runs_are_refused() -> None:
    table = random_table(0, images=30)
    run = result_of(table, source="runs/a", caption_digest="1")
    other_owner = table.image_of_text[::-1].copy()
    for other, message in (
        (
            result_of(table, collection="coco"),
            "the collection is 'tiny' in runs/a and 'coco' in another; evaluate both on the same collection",
        ),
        (
            result_of(table, split="val"),
            "the split is 'test' in runs/a and 'val' in another; evaluate both on the same split",
        ),
        (result_of(random_table(0, folds=2)), "with the same protocol (--folds)"),
        (result_of(random_table(0, folds=2)), "the protocol is 'full' in runs/a and 'mean of 2 folds'"),
        (result_of(random_table(0, images=31)), "in another; evaluate both on the same collection and split"),
        (result_of(random_table(0, images=31)), "the number of images is 30 in runs/a and 31"),
        (result_of(random_table(0, owner=np.arange(30))), "the number of captions is 73 in runs/a and 30"),
        (result_of(replace(table, ks=(1, 5))), "the cut-offs of recall"),
        (result_of(table, caption_digest="2"), "the digest of the caption ids is '1'"),
        (result_of(replace(table, image_of_text=other_owner)), "captions belong to other images"),
    ):
        with pytest.raises(CrossAlignError) as caught:
            compare(run, other, resamples=10)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert compare(run, result_of(table), resamples=10).differences  # one of both knows no digest
    with pytest.raises(CrossAlignError, match="at least one"):
        compare_groups([run], [])


def test_a_re_ranked_result_says_so() -> None:
    plain = result_of(random_table(0))
    by = Reranking(model="abcdef0123456789", top=20, name="runs/scan")
    other = replace(plain, reranking=by)
    assert (plain.reranked, other.reranked) == ("", "best 20 re-ranked by runs/scan")
    assert result_table(other).title == "tiny, test, full, best 20 re-ranked by runs/scan"
    for first, second, told in (
        (plain, plain, ""),
        (plain, other, ", candidate: best 20 re-ranked by runs/scan"),
        (other, plain, ", baseline: best 20 re-ranked by runs/scan"),
        (other, other, ", best 20 re-ranked by runs/scan"),
    ):
        assert comparison_table(compare(first, second, resamples=10)).title == f"tiny, test, full{told}"
    mixed = compare_groups([plain, other], [plain], resamples=10)
    assert mixed.baseline_reranked == "not re-ranked or best 20 re-ranked by runs/scan"
    # 30 images and 73 captions; without a name as older versions wrote it.
    older = replace(plain, reranking=Reranking(model="abcdef0123456789", top=50))
    assert older.reranked == "all 30 images, best 50 captions re-ranked by model abcdef012345"
    assert replace(plain, reranking=by.model_copy(update={"top": 73})).reranked == (
        "all 30 images and 73 captions re-ranked by runs/scan"
    )
    folded = replace(result_of(random_table(0, folds=2)), reranking=by)
    assert folded.reranked == "all 15 images, best 20 captions re-ranked by runs/scan"


def test_tables_show_numbers_and_marks() -> None:
    assert [significance_mark(p) for p in (0.05, 0.049, 0.0099, 0.0009)] == ["", "*", "**", "***"]
    worse, better = (result_of(random_table(0, images=200, chance=chance)) for chance in (0.2, 0.5))
    comparison = compare(worse, better, resamples=2000)
    output = io.StringIO()
    console = Console(file=output, width=80)
    console.print(comparison_table(comparison))
    console.print(result_table(better))
    text = output.getvalue()
    row = comparison.differences[-1]
    assert f"{row.difference:+.2f}***" in text
    assert "image→text R@1" in text
    assert "text→image median rank" in text
    assert "200 images, 500 captions" in text
    assert "…" not in text
