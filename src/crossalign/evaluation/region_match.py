"""Which regions show what a word means, and which vector a word has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

__all__ = [
    "Box",
    "GroundedWord",
    "Rule",
    "pointing_regions",
    "regions_of_words",
    "regions_that_show",
    "span_vectors",
]

Box = tuple[float, float, float, float]
Rule = Literal["centre", "overlap", "point"]
WHOLE_IMAGE = 0.98
ENOUGH_OVERLAP = 0.5


class Span(Protocol):
    """Some characters of a text: the first and the last plus one."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


class GroundedWord(Span, Protocol):
    """A word or phrase whose object is known: its characters, its kind, the relative xyxy boxes of the object.

    Each of several boxes is right: "two dogs" may be shown by either dog.
    """

    @property
    def kind(self) -> str: ...
    @property
    def boxes(self) -> Sequence[Box]: ...


def pointing_regions(boxes: Tensor) -> Tensor:
    """Which of the boxes ``(..., 4)`` point at something: all but those that cover the whole picture; ``(...)``."""
    return _area(boxes) < WHOLE_IMAGE


def regions_of_words(regions: Tensor, words: Sequence[GroundedWord], rule: Rule) -> Tensor:
    """Which regions ``(R, 4)`` are right for which words: ``(W, R)`` bool; any of a word's boxes will do."""
    objects = regions.new_tensor([box for word in words for box in word.boxes]).reshape(-1, 4)
    numbers = [number for number, word in enumerate(words) for _ in word.boxes]
    owners = torch.tensor(numbers, dtype=torch.long, device=regions.device)
    right = regions.new_zeros(len(words), len(regions))
    return right.index_add_(0, owners, regions_that_show(regions, objects, rule).to(right.dtype)) > 0


def regions_that_show(regions: Tensor, objects: Tensor, rule: Rule) -> Tensor:
    """Which regions are right for which objects: ``(..., R, 4)`` and ``(..., W, 4)`` xyxy boxes to ``(..., W, R)``.

    ``centre`` suits the cells of a grid: the region's centre lies in the object's box, or the object's centre
    in the region, so that an object smaller than a cell still has a right cell. ``overlap`` suits detected
    boxes: their intersection is at least half of their union. ``point`` is the pointing game (Zhang et al.,
    ECCV 2016, section 4.2) without a tolerance: the region's centre lies in the object's box.

    Raises:
        ValueError: there is no such rule.
    """
    regions, objects = regions.unsqueeze(-3), objects.unsqueeze(-2)
    if rule == "centre":
        return _centre_inside(regions, objects) | _centre_inside(objects, regions)
    if rule == "overlap":
        return _overlap(objects, regions) >= ENOUGH_OVERLAP
    if rule == "point":
        return _centre_inside(regions, objects)
    raise ValueError(f"rule is '{rule}'; choose 'centre', 'overlap' or 'point'")


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


def span_vectors(words: Tensor, offsets: Tensor, spans: Sequence[Span]) -> tuple[Tensor, Tensor]:
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
