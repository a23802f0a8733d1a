"""Word-to-region accuracy: does a word's vector lie closest to the region that shows what the word means?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "GroundedWord",
    "GroundingResult",
    "GroundingSample",
    "KindResult",
    "Rule",
    "grounding_accuracy",
    "regions_that_show",
    "span_vectors",
    "word_region_accuracy",
]

Rule = Literal["centre", "overlap"]
WHOLE_IMAGE = 0.98
ENOUGH_OVERLAP = 0.5


class GroundedWord(Protocol):
    """A word whose object is known: its characters in the text, its kind, the object's relative xyxy box."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def box(self) -> tuple[float, float, float, float]: ...


@dataclass(frozen=True)
class GroundingSample:
    """One caption with its image: R regions, T tokens, joint width D.

    Attributes:
        image_id: captions of one image are drawn together when the interval is estimated.
        regions: ``(R, D)`` and ``words`` ``(T, D)`` local vectors, compared by inner product.
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


def regions_that_show(regions: Tensor, objects: Tensor, rule: Rule) -> Tensor:
    """Which regions are right for which objects: ``(R, 4)`` and ``(W, 4)`` xyxy boxes to ``(W, R)`` bool.

    ``centre`` suits the cells of a grid: the region's centre lies in the object's box, or the object's centre
    in the region, so that an object smaller than a cell still has a right cell. ``overlap`` suits detected
    boxes: their intersection is at least half of their union.

    Raises:
        ValueError: there is no such rule.
    """
    if rule == "centre":
        return _centre_inside(regions[None], objects[:, None]) | _centre_inside(
            objects[:, None], regions[None]
        )
    if rule == "overlap":
        return _overlap(objects[:, None], regions[None]) >= ENOUGH_OVERLAP
    raise ValueError(f"rule is '{rule}'; choose 'centre' or 'overlap'")


def _centre_inside(inner: Tensor, outer: Tensor) -> Tensor:
    """Whether the centre of one box lies in another, whose left and top edge belong to it."""
    centre = (inner[..., :2] + inner[..., 2:]) / 2
    return ((centre >= outer[..., :2]) & (centre < outer[..., 2:])).all(dim=-1)


def _overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of broadcast xyxy boxes; 0 where both are empty."""
    corner = torch.maximum(first[..., :2], second[..., :2])
    opposite = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (opposite - corner).clamp_min(0).prod(dim=-1)
    union = _area(first) + _area(second) - shared
    return torch.where(union > 0, shared / union.clamp_min(torch.finfo(union.dtype).tiny), 0.0)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(dim=-1)


def span_vectors(words: Tensor, offsets: Tensor, spans: Sequence[GroundedWord]) -> tuple[Tensor, Tensor]:
    """The vector of each span: the mean over the tokens that share a character with it.

    Args:
        words: ``(T, D)`` token vectors.
        offsets: ``(T, 2)`` first and last-plus-one character of each token; ``(0, 0)`` for special tokens.

    Returns:
        ``(W, D)`` vectors, and ``(W,)`` bool: whether any token covers the span; its vector is 0 otherwise.
    """
    ends = torch.tensor([[span.start, span.end] for span in spans], device=offsets.device).reshape(-1, 2)
    # An empty token shares no character with anything, also where its offset lies inside a span.
    real = (offsets[:, 1] > offsets[:, 0])[None]
    covered = real & (offsets[None, :, 0] < ends[:, 1:]) & (offsets[None, :, 1] > ends[:, :1])
    weights = covered.to(words.dtype)
    return weights @ words / weights.sum(dim=1, keepdim=True).clamp_min(1), covered.any(dim=1)


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
        share of right ones among the candidates.
    """
    allowed = torch.ones_like(right) if candidates is None else candidates[None].expand_as(right)
    lowest = torch.full_like(similarity, -torch.inf)
    best_right = torch.where(right & allowed, similarity, lowest).amax(dim=1)
    best_wrong = torch.where(~right & allowed, similarity, lowest).amax(dim=1)
    chance = (right & allowed).sum(dim=1) / allowed.sum(dim=1).clamp_min(1)
    return best_right > best_wrong, chance


def grounding_accuracy(
    samples: Iterable[GroundingSample], *, rule: Rule = "centre", resamples: int = 1000, seed: int = 0
) -> GroundingResult:
    """Word-to-region accuracy over captions, against chance, with a bootstrap interval.

    For each word the model's choice is the region with the highest inner product. A region that covers the
    whole picture points at nothing: it can be neither chosen nor right. Every word counts once.

    Raises:
        ValueError: no sample has a word with a known object.
    """
    hits: list[bool] = []
    chances: list[float] = []
    kinds: list[str] = []
    owners: list[str] = []
    skipped = 0
    for sample in samples:
        if not sample.spans:
            continue
        vectors, covered = span_vectors(sample.words.float(), sample.offsets, sample.spans)
        objects = torch.tensor([span.box for span in sample.spans], dtype=torch.float32)
        boxes = sample.boxes.float()
        candidates = _area(boxes) < WHOLE_IMAGE
        if sample.region_mask is not None:
            candidates = candidates & sample.region_mask
        right = regions_that_show(boxes, objects.to(boxes.device), rule)
        hit, chance = word_region_accuracy(vectors @ sample.regions.float().T, right, candidates)
        keep = covered.tolist()
        skipped += keep.count(False)
        hits += [h for h, kept in zip(hit.tolist(), keep, strict=True) if kept]
        chances += [c for c, kept in zip(chance.tolist(), keep, strict=True) if kept]
        kinds += [span.kind for span, kept in zip(sample.spans, keep, strict=True) if kept]
        owners += [sample.image_id] * sum(keep)
    if not hits:
        raise ValueError("no word with a known object; give samples whose spans are covered by tokens")
    return GroundingResult(
        accuracy=_percent(hits),
        chance=_percent(chances),
        interval=_interval(hits, owners, resamples, seed),
        answerable=_percent([chance > 0 for chance in chances]),
        words=len(hits),
        images=len(set(owners)),
        skipped=skipped,
        rule=rule,
        by_kind=_by_kind(hits, chances, kinds),
    )


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


def _interval(hits: Sequence[bool], owners: Sequence[str], resamples: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap over images: words of one image are not independent of each other."""
    names = {name: position for position, name in enumerate(dict.fromkeys(owners))}
    of_word = np.asarray([names[name] for name in owners])
    won = np.bincount(of_word, weights=np.asarray(hits, dtype=np.float64), minlength=len(names))
    total = np.bincount(of_word, minlength=len(names))
    rng = np.random.default_rng(seed)
    accuracies = np.empty(resamples)
    for sample in range(resamples):
        drawn = rng.integers(len(names), size=len(names))
        accuracies[sample] = 100 * won[drawn].sum() / total[drawn].sum()
    low, high = np.quantile(accuracies, (0.025, 0.975))
    return float(low), float(high)
