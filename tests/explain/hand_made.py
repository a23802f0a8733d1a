"""Encoded pairs made by hand: regions and words are the vectors that a test says they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crossalign.evaluation.encoded_pairs import EncodedPair

Box = tuple[float, float, float, float]


def grid(cells: int) -> list[Box]:
    return [
        (x / cells, y / cells, (x + 1) / cells, (y + 1) / cells) for y in range(cells) for x in range(cells)
    ]


def encoded(
    text: str,
    offsets: Sequence[tuple[int, int]],
    words: Tensor,
    regions: Tensor,
    boxes: Sequence[Box] | None = None,
    image_id: str = "photo",
    caption_id: str = "photo#0",
) -> EncodedPair:
    """A pair whose ``context`` is the negative of its ``locals`` on the words' side."""
    side = round(len(regions) ** 0.5)
    return EncodedPair(
        image_id=image_id,
        caption_id=caption_id,
        text=text,
        similarity=0.5,
        regions={"locals": regions, "context": regions},
        words={"locals": words, "context": -words},
        boxes=torch.tensor(grid(side) if boxes is None else boxes).reshape(-1, 4),
        offsets=torch.tensor(offsets).reshape(-1, 2),
    )


def said(text: str, choices: Sequence[tuple[int, float]], cells: int = 2) -> EncodedPair:
    """A caption whose words, cut at spaces, each choose a cell of a grid with a similarity."""
    offsets, place = [], 0
    for word in text.split():
        place = text.index(word, place)
        offsets.append((place, place + len(word)))
        place += len(word)
    regions = torch.eye(cells * cells)
    words = torch.stack([similarity * regions[cell] for cell, similarity in choices])
    return encoded(text, offsets, words, regions)
