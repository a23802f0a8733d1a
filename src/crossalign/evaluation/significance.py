"""Whether two models differ on the same split by more than chance: paired tests over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from crossalign.errors import CrossAlignError
from crossalign.evaluation.bootstrap import check_resampling, image_draws, percentile_interval
from crossalign.evaluation.results import RetrievalResult

__all__ = [
    "Comparison",
    "Difference",
    "compare",
    "compare_groups",
    "permutation_p_values",
    "significance_mark",
]

_TOGETHER = 256
"""Sign patterns drawn at a time."""
_SAME_DATA = "on the same collection and split"
_REMEDIES = {
    "collection": "on the same collection (--collection)",
    "split": "on the same split (--split)",
    "protocol": "with the same protocol (--folds)",
    "cut-offs of recall": "with the same cut-offs",
}


@dataclass(frozen=True)
class Difference:
    """One metric of two groups of runs.

    Attributes:
        metric: its name, such as ``t2i_r1`` or ``rsum``.
        baseline, candidate: means over each group's runs.
        baseline_sd, candidate_sd: standard deviations over each group's runs; none for a single run.
        difference: candidate less baseline.
        low, high: ends of its bootstrap interval.
        p_value: of the paired permutation test, two-sided.
    """

    metric: str
    baseline: float
    baseline_sd: float | None
    candidate: float
    candidate_sd: float | None
    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """The differences in every recall and in ``rsum``, and what they were computed from.

    ``baseline_reranked`` and ``candidate_reranked`` say in words what a second model put into order, if one did, and
    how hubs were corrected, if they were.
    """

    collection: str
    split: str
    protocol: str
    images: int
    captions: int
    baseline_runs: tuple[str, ...]
    candidate_runs: tuple[str, ...]
    confidence: float
    resamples: int
    seed: int
    differences: tuple[Difference, ...]
    baseline_reranked: str = ""
    candidate_reranked: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain lists and dictionaries."""
        return asdict(self)


def compare(
    baseline: RetrievalResult,
    candidate: RetrievalResult,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two runs on the same split; see ``compare_groups``."""
    return compare_groups([baseline], [candidate], confidence=confidence, resamples=resamples, seed=seed)


def compare_groups(
    baselines: Sequence[RetrievalResult],
    candidates: Sequence[RetrievalResult],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two groups of runs, such as several seeds of two models, on the same split.

    Each run's recall is a sum over images of what the image and its captions contribute; a group's
    contribution is the mean over its runs. The null hypothesis of the p-value: for every image, the
    contributions of both groups (to all recalls together) could be exchanged without changing their joint
    distribution, that is, which model answered says nothing about how well the image and its captions were
    retrieved. It is tested by exchanging the groups for random images (a paired sign-flip permutation test):
    p is the share of exchanges that give at least the observed difference, in either direction, the observed
    one included. The images are the units because the captions of one image are not independent.

    The interval of the difference is the percentile bootstrap over images, the same resamples for all runs.
    Both treat the runs at hand as the models: they say how far the difference would move with other images,
    not with other seeds; the standard deviations over the runs tell that. P-values are not corrected for
    looking at several metrics.

    Raises:
        CrossAlignError: no runs in a group, or runs on different collections, splits or protocols.
    """
    check_resampling(confidence, resamples)
    if not baselines or not candidates:
        raise CrossAlignError("a comparison needs at least one baseline run and one candidate run")
    runs = [*baselines, *candidates]
    _check_comparable(runs)
    table = runs[0].table
    parts = np.stack([run.table.contributions() for run in runs])
    values = parts.sum(axis=1)
    groups = slice(0, len(baselines)), slice(len(baselines), None)
    p_values = permutation_p_values(
        parts[groups[1]].mean(axis=0) - parts[groups[0]].mean(axis=0), resamples=resamples, seed=seed
    )
    samples = []
    for weights in image_draws(len(table.i2t), table.folds, resamples, seed):
        drawn = np.stack([run.table.weighted_recalls(weights) for run in runs])
        samples.append(drawn[groups[1]].mean(axis=0) - drawn[groups[0]].mean(axis=0))
    ends = percentile_interval(np.concatenate(samples), confidence)
    baseline, candidate = (values[group].mean(axis=0) for group in groups)
    spread = [values[group].std(axis=0, ddof=1) if len(values[group]) > 1 else None for group in groups]
    differences = tuple(
        Difference(
            metric=name,
            baseline=float(baseline[column]),
            baseline_sd=None if spread[0] is None else float(spread[0][column]),
            candidate=float(candidate[column]),
            candidate_sd=None if spread[1] is None else float(spread[1][column]),
            difference=float(candidate[column] - baseline[column]),
            low=float(ends[column, 0]),
            high=float(ends[column, 1]),
            p_value=float(p_values[column]),
        )
        for column, name in enumerate((*table.recall_names, "rsum"))
    )
    return Comparison(
        collection=runs[0].collection,
        split=runs[0].split,
        protocol=runs[0].protocol,
        images=len(table.i2t),
        captions=len(table.t2i),
        baseline_runs=tuple(run.source for run in baselines),
        candidate_runs=tuple(run.source for run in candidates),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        differences=differences,
        baseline_reranked=_reranked(baselines),
        candidate_reranked=_reranked(candidates),
    )


def permutation_p_values(differences: np.ndarray, *, resamples: int = 10_000, seed: int = 0) -> np.ndarray:
    """Two-sided p-values of the sums over units under random signs: ``(units, metrics)`` to ``(metrics,)``.

    The null hypothesis: each unit's differences are as likely as their negatives. The observed signs count as
    one of the patterns, so that the smallest possible value is ``1 / (resamples + 1)`` and the test never
    rejects too often.
    """
    # Units without any difference add nothing under either sign.
    differences = differences[differences.any(axis=1)]
    total = differences.sum(axis=0)
    # Sums in another order differ in their last digits: a pattern as extreme as the observed must count.
    least = np.abs(total) - 1e-9 * np.abs(differences).sum(axis=0)
    random, extreme = np.random.default_rng(seed), np.ones(differences.shape[1])
    for start in range(0, resamples, _TOGETHER):
        count = min(_TOGETHER, resamples - start)
        flipped = random.integers(0, 2, (count, len(differences)), dtype=np.int8).astype(np.float64)
        extreme += (np.abs(total - 2 * flipped @ differences) >= least).sum(axis=0)
    return extreme / (resamples + 1)


def significance_mark(p_value: float) -> str:
    """``***`` below 0.001, ``**`` below 0.01, ``*`` below 0.05, else nothing."""
    return "*" * sum(p_value < level for level in (0.05, 0.01, 0.001))


def _reranked(runs: Sequence[RetrievalResult]) -> str:
    """In words what was put into order by second models and corrected for hubs, each said once."""
    told = dict.fromkeys(", ".join(filter(None, (run.reranked, run.corrected))) for run in runs)
    plain = "not corrected" if any(run.corrected for run in runs) else "not re-ranked"
    return " or ".join(words or plain for words in told) if any(told) else ""


def _check_comparable(runs: Sequence[RetrievalResult]) -> None:
    for first, other in combinations(runs, 2):
        one, two = first.source or "the first run", other.source or "another"
        for what, here, there in (
            ("collection", first.collection, other.collection),
            ("split", first.split, other.split),
            ("protocol", first.protocol, other.protocol),
            ("cut-offs of recall", first.table.ks, other.table.ks),
            ("number of images", len(first.table.i2t), len(other.table.i2t)),
            ("number of captions", len(first.table.t2i), len(other.table.t2i)),
            ("digest of the image ids", first.image_digest, other.image_digest),
            ("digest of the caption ids", first.caption_digest, other.caption_digest),
        ):
            # A digest is compared only where both runs know theirs.
            if here != there and here is not None and there is not None:
                raise CrossAlignError(
                    f"runs cannot be compared: the {what} is {here!r} in {one} and {there!r} in {two}; "
                    f"evaluate both {_REMEDIES.get(what, _SAME_DATA)}"
                )
        if not np.array_equal(first.table.image_of_text, other.table.image_of_text):
            raise CrossAlignError(
                f"runs cannot be compared: captions belong to other images in {one} than in {two}; "
                f"evaluate both {_SAME_DATA}"
            )
