"""Word-to-region accuracy: does a word's vector lie closest to the region that shows what the word means?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import compress
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.evaluation.region_match import (
    GroundedWord,
    Rule,
    pointing_regions,
    regions_of_words,
    regions_that_show,
    span_vectors,
)

__all__ = [
    "GroundedWord",
    "GroundingDifference",
    "GroundingResult",
    "GroundingSample",
    "GroundingTally",
    "KindResult",
    "Rule",
    "grounding_accuracy",
    "regions_that_show",
    "span_vectors",
    "word_region_accuracy",
]

T = TypeVar("T")


@dataclass(frozen=True)
class GroundingSample:
    """One caption with its image: R regions, T tokens, joint width D.

    Attributes:
        image_id: captions of one image are drawn together when the interval is estimated.
        regions: ``(R, D)`` and ``words`` ``(T, D)`` unit vectors, compared by inner product.
        boxes: ``(R, 4)`` relative xyxy boxes of the regions.
        offsets: ``(T, 2)`` first and last-plus-one character of each token; ``(0, 0)`` for special tokens.
        spans: the words whose object is known.
        region_mask: ``(R,)`` bool, true where a region is real; None when all are.
    """

    image_id: str
    regions: Tensor
    boxes: Tensor
    words: Tensor
    offsets: Tensor
    spans: Sequence[GroundedWord]
    region_mask: Tensor | None = None


@dataclass(frozen=True)
class KindResult:
    """Accuracy and chance in percent over the words of one kind, such as "colour"."""

    accuracy: float
    chance: float
    words: int


@dataclass(frozen=True)
class GroundingResult:
    """Word-to-region accuracy over many captions, in percent.

    Attributes:
        accuracy: share of words whose most similar region shows their object.
        chance: the expected accuracy of choosing every word's region by lot.
        interval: 95 % bootstrap interval of the accuracy, images drawn with replacement.
        answerable: share of words for which at least one region is right; the others count as wrong.
        words, images: how many went in.
        skipped: words that no token covers (cut off at the end of a long text); they count nowhere.
        by_kind: the same for every kind of word.
        rule: what makes a region right, see ``regions_that_show``.
    """

    accuracy: float
    chance: float
    interval: tuple[float, float]
    answerable: float
    words: int
    images: int
    skipped: int
    rule: Rule
    by_kind: dict[str, KindResult] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class GroundingDifference:
    """Accuracy of a model less that of its base model on the same words, in percent points.

    Attributes:
        interval: 95 % bootstrap interval, with the same images drawn for both models.
        words: how many both models have a token for.
    """

    difference: float
    interval: tuple[float, float]
    words: int

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def word_region_accuracy(
    similarity: Tensor, right: Tensor, candidates: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Whether each word's most similar region is right, and how often one drawn by lot would be.

    Args:
        similarity: ``(W, R)``.
        right: ``(W, R)`` bool, the regions that show the word's object.
        candidates: ``(R,)`` bool, the regions that may be chosen; None for all.

    Returns:
        ``(W,)`` bool hits (a tie between a right and a wrong region is a miss) and ``(W,)`` float chance: the
        share of right ones among the candidates. Without any region all are misses, and chance is 0.
    """
    if not similarity.shape[1]:
        return right.any(dim=1), similarity.sum(dim=1)
    allowed = torch.ones_like(right) if candidates is None else candidates[None].expand_as(right)
    lowest = torch.full_like(similarity, -torch.inf)
    best_right = torch.where(right & allowed, similarity, lowest).amax(dim=1)
    best_wrong = torch.where(~right & allowed, similarity, lowest).amax(dim=1)
    chance = (right & allowed).sum(dim=1) / allowed.sum(dim=1).clamp_min(1)
    return best_right > best_wrong, chance


class GroundingTally:
    """Gathers words caption by caption.

    For each word the model's choice is the region with the highest inner product. A region that covers the
    whole picture points at nothing: it can be neither chosen nor right. Every word counts once.

    Args:
        rule: what makes a region right, see ``regions_that_show``.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule: Rule = rule
        self._hits: list[bool] = []
        self._chances: list[float] = []
        self._covered: list[bool] = []
        self._kinds: list[str] = []
        self._owners: list[str] = []

    def add(self, sample: GroundingSample) -> None:
        """Count the words of one caption."""
        if not sample.spans:
            return
        vectors, covered = span_vectors(sample.words.float(), sample.offsets, sample.spans)
        boxes = sample.boxes.float()
        candidates = pointing_regions(boxes)
        if sample.region_mask is not None:
            candidates = candidates & sample.region_mask
        right = regions_of_words(boxes, sample.spans, self.rule)
        hits, chances = word_region_accuracy(vectors @ sample.regions.float().T, right, candidates)
        self._hits += hits.tolist()
        self._chances += chances.tolist()
        self._covered += covered.tolist()
        self._kinds += [span.kind for span in sample.spans]
        self._owners += [sample.image_id] * len(sample.spans)

    def result(self, *, resamples: int = 1000, seed: int = 0) -> GroundingResult:
        """What all words together come to.

        Raises:
            CrossAlignError: no token of the model covers a word with a known object.
        """
        if not any(self._covered):
            raise CrossAlignError(
                "no word with a known object is covered by a token of the model; see whether its texts are cut off "
                "(max_length), and whether the split's words are known"
            )
        hits, chances = self._kept(self._hits), self._kept(self._chances)
        won, total = self._by_image(hits, self._kept(self._owners))
        return GroundingResult(
            accuracy=_percent(hits),
            chance=_percent(chances),
            interval=_interval(won, total, resamples, seed),
            answerable=_percent([chance > 0 for chance in chances]),
            words=len(hits),
            images=len(total),
            skipped=self._covered.count(False),
            rule=self.rule,
            by_kind=_by_kind(hits, chances, self._kept(self._kinds)),
        )

    def less(self, base: GroundingTally, *, resamples: int = 1000, seed: int = 0) -> GroundingDifference:
        """By how much this model finds more of the words than a base model that counted the same ones.

        Words that a token of either model does not cover are left out.

        Raises:
            ValueError: the two have counted different words, or by different rules.
            CrossAlignError: there is no word that both models cover.
        """
        if (self._owners, self._kinds) != (base._owners, base._kinds):
            raise ValueError("the two models have counted different words; give both the same captions")
        if self.rule != base.rule:
            raise ValueError(f"the two models were judged by different rules: {self.rule} and {base.rule}")
        both = [mine and other for mine, other in zip(self._covered, base._covered, strict=True)]
        if not any(both):
            raise CrossAlignError("no word with a known object is covered by tokens of both models")
        gains = [int(mine) - int(other) for mine, other in zip(self._hits, base._hits, strict=True)]
        won, total = self._by_image(list(compress(gains, both)), list(compress(self._owners, both)))
        interval = _interval(won, total, resamples, seed)
        return GroundingDifference(float(100 * won.sum() / total.sum()), interval, int(total.sum()))

    def _kept(self, values: list[T]) -> list[T]:
        return list(compress(values, self._covered))

    @staticmethod
    def _by_image(values: Sequence[float], owners: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Sum of the values and number of words of each image ``(images,)``, in the order of the images."""
        names = {name: position for position, name in enumerate(dict.fromkeys(owners))}
        of_word = np.asarray([names[name] for name in owners])
        won = np.bincount(of_word, weights=np.asarray(values, dtype=np.float64), minlength=len(names))
        return won, np.bincount(of_word, minlength=len(names))


def grounding_accuracy(
    samples: Iterable[GroundingSample], *, rule: Rule = "centre", resamples: int = 1000, seed: int = 0
) -> GroundingResult:
    """Word-to-region accuracy over captions, against chance, with a bootstrap interval.

    Raises:
        CrossAlignError: no sample has a word with a known object that a token covers.
    """
    tally = GroundingTally(rule)
    for sample in samples:
        tally.add(sample)
    return tally.result(resamples=resamples, seed=seed)


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)


def _by_kind(hits: Sequence[bool], chances: Sequence[float], kinds: Sequence[str]) -> dict[str, KindResult]:
    members: defaultdict[str, list[int]] = defaultdict(list)
    for position, kind in enumerate(kinds):
        members[kind].append(position)
    return {
        kind: KindResult(_percent([hits[i] for i in who]), _percent([chances[i] for i in who]), len(who))
        for kind, who in sorted(members.items())
    }


def _interval(won: np.ndarray, total: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap over images: words of one image are not independent of each other."""
    rng = np.random.default_rng(seed)
    shares = np.empty(resamples)
    for sample in range(resamples):
        drawn = rng.integers(len(won), size=len(won))
        shares[sample] = 100 * won[drawn].sum() / total[drawn].sum()
    low, high = np.quantile(shares, (0.025, 0.975))
    return float(low), float(high)
