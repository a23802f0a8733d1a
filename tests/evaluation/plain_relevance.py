"""R@K, R-Precision and mAP@R of one query after another, by sorting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ranking(scores: np.ndarray, relevant: set[int], hidden: int = -1) -> list[int]:
    """The gallery from best to worst; among equals what is irrelevant comes first."""
    items = [item for item in range(len(scores)) if item != hidden]
    return sorted(items, key=lambda item: (-scores[item], item in relevant))


def measures(order: Sequence[int], relevant: set[int], size: int | None = None) -> tuple[int, float, float]:
    """First rank, R-Precision and mAP@R."""
    r = len(relevant) if size is None else size
    hits = [item in relevant for item in order]
    first = hits.index(True) + 1
    precisions = [
        sum(hits[: place + 1]) / (place + 1) if hits[place] else 0.0 for place in range(min(r, len(hits)))
    ]
    return first, sum(hits[:r]) / r, sum(precisions) / r
