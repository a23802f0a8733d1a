"""Retrieval within one modality: what is of the query's group is relevant, be it a class or an image's captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.evaluation.relevance import RelevanceTable, cosines_in_blocks, relevance_table

__all__ = ["group_retrieval"]

Positions = npt.NDArray[np.int64]


def group_retrieval(
    embeddings: Tensor,
    group: npt.ArrayLike,
    *,
    query: Positions | None = None,
    gallery: Positions | None = None,
    most: int = 10,
    progress: bool = False,
) -> RelevanceTable:
    """Every query asks for the items of its group in the gallery; one that is in both does not find itself.

    A query without another item of its group is left out of the means. Scores, and what is relevant, exist for a run
    of queries at a time.

    Args:
        embeddings: ``(n, D)``, compared by their cosine.
        group: ``(n,)`` integers.
        query, gallery: positions of the items that ask and of those that answer, each once; default: all of them.
        most: largest K of the recalls that will be asked for.

    Raises:
        CrossAlignError: another number of embeddings than of groups; no query with another item of its group.
    """
    groups = np.asarray(group, np.int64)
    if embeddings.dim() != 2 or groups.shape != (len(embeddings),):
        raise CrossAlignError(
            f"embeddings {tuple(embeddings.shape)} for groups {groups.shape}; give (n, D) and one group each"
        )
    asked = np.arange(len(groups)) if query is None else query
    there = np.arange(len(groups)) if gallery is None else gallery
    place = np.full(len(groups), -1, np.int64)
    place[there] = np.arange(len(there))
    return relevance_table(
        cosines_in_blocks(embeddings[asked], embeddings[there]),
        _Members(groups[asked], groups[there], place[asked]),
        len(there),
        left_out=place[asked],
        most=most,
        progress=progress,
    )


class _Members(Sequence[Positions]):
    """For each query its group in the gallery without itself, made when asked for: together they may be large."""

    def __init__(self, asked: Positions, there: Positions, itself: Positions) -> None:
        self.order = np.argsort(there, kind="stable")
        self.first = np.searchsorted(there[self.order], asked)
        self.last = np.searchsorted(there[self.order], asked, side="right")
        self.itself = itself

    def __len__(self) -> int:
        return len(self.itself)

    @overload
    def __getitem__(self, index: int) -> Positions: ...
    @overload
    def __getitem__(self, index: slice) -> list[Positions]: ...
    def __getitem__(self, index: int | slice) -> Positions | list[Positions]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        members = self.order[self.first[index] : self.last[index]]
        return members[members != self.itself[index]]
