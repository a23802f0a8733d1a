"""A photo or a text that a search has found."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Hit", "TextHit"]


@dataclass(frozen=True)
class Hit:
    """A photo found.

    Attributes:
        rank: 1 is the best.
        score: inner product with the query, the largest over views, less what the query bank takes off where it does;
            their cosine where that was asked for; after re-ranking the re-ranker's score, not a number where it could
            not read the photo.
        file: path relative to the photo folder, posix.
        path: where the photo is on this machine.
        width: pixels, the right way up.
        height: pixels.
        missing: whether the photo is no longer there.
        first_score: after re-ranking, the score that the photo was found with.
        problem: after re-ranking, why the photo could not be read; None for a good one.
    """

    rank: int
    score: float
    file: str
    path: Path
    width: int
    height: int
    missing: bool
    first_score: float | None = None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which has no value for what is not a number: None."""
        score = None if math.isnan(self.score) else self.score
        return {**asdict(self), "path": str(self.path), "score": score}


@dataclass(frozen=True)
class TextHit:
    """A text found.

    Attributes:
        rank: 1 is the best.
        score: inner product with the query, the largest over its views; their cosine where that was asked for.
        text: what it says.
        ids: where it stands: numbers of lines, or ids of captions.
        photos: the photos it describes, where the collection knew them; they need not be there any more.
    """

    rank: int
    score: float
    text: str
    ids: tuple[str, ...]
    photos: tuple[Path, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "ids": list(self.ids), "photos": [str(photo) for photo in self.photos]}
