"""Retrieval among captions: those of the same image are relevant to each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.evaluation.relevance import RelevanceTable, cosine_scores, relevance_table

__all__ = ["caption_retrieval", "same_group"]


def caption_retrieval(
    embeddings: Tensor, image_of_text: ArrayLike, *, most: int = 10, progress: bool = False
) -> RelevanceTable:
    """Every caption asks for the other captions of its image, among all captions but itself.

    A caption that is alone with its image is no query, but it is in the gallery.

    Args:
        embeddings: ``(m, D)``, compared by their cosine.
        image_of_text: ``(m,)``.
        most: largest K of the recalls that will be asked for.

    Raises:
        CrossAlignError: no image has two captions.
    """
    owner = np.asarray(image_of_text, np.int64)
    if len(owner) != len(embeddings):
        raise CrossAlignError(
            f"{len(embeddings)} captions are embedded, {len(owner)} have an image; give as many"
        )
    return relevance_table(
        cosine_scores(embeddings, embeddings),
        same_group(owner),
        len(owner),
        left_out=np.arange(len(owner)),
        most=most,
        progress=progress,
    )


def same_group(group: np.ndarray) -> Sequence[np.ndarray]:
    """For each item the positions of the others of its group."""
    order = np.argsort(group, kind="stable")
    _, start, counts = np.unique(group[order], return_index=True, return_counts=True)
    members: list[np.ndarray] = [np.empty(0, np.int64)] * len(group)
    for first, count in zip(start, counts, strict=True):
        own = order[first : first + count]
        for position, item in enumerate(own):
            members[item] = np.delete(own, position)
    return members
