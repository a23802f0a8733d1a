"""Sentence similarity: do cosines of sentences rank pairs as people do?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crossalign.evaluation.correlation import spearman
from crossalign.suite.sts_files import SentencePairs

__all__ = ["SetSimilarity", "TextEncoder", "average", "sentence_similarity"]

TextEncoder = Callable[[Sequence[str]], Tensor]
"""Texts to embeddings ``(n, D)``."""


@dataclass(frozen=True)
class SetSimilarity:
    """Spearman's correlation of one set, in percent.

    Attributes:
        all: over the pairs of all subsets together: the figure of the field's tables.
        mean: of the subsets' correlations.
        weighted: the same, weighted by their pairs.
        subsets: correlation of each subset.
        pairs: in all.
    """

    all: float
    mean: float
    weighted: float
    subsets: dict[str, float]
    pairs: int


def sentence_similarity(
    encode: TextEncoder, sets: Mapping[str, Sequence[SentencePairs]]
) -> dict[str, SetSimilarity]:
    """Spearman's correlation of cosines with the judgements, for each set.

    A set's subsets count together, as in SimCSE (Gao et al., EMNLP 2021, appendix B) and MTEB; SentEval's mean and
    weighted mean over subsets stand beside it.

    Args:
        encode: asked once, for every different sentence of all sets.

    Raises:
        CrossAlignError: embeddings that are not finite.
    """
    texts = sorted(
        {text for parts in sets.values() for part in parts for text in (*part.first, *part.second)}
    )
    row = {text: position for position, text in enumerate(texts)}
    embeddings = torch.nn.functional.normalize(encode(texts).double(), dim=-1).cpu()
    result = {}
    for name, parts in sets.items():
        cosines = [_cosines(embeddings, row, part) for part in parts]
        judgements = [np.array(part.judgement) for part in parts]
        own = [spearman(*values) for values in zip(cosines, judgements, strict=True)]
        sizes = [len(part) for part in parts]
        result[name] = SetSimilarity(
            all=spearman(np.concatenate(cosines), np.concatenate(judgements)),
            mean=float(np.mean(own)),
            weighted=float(np.average(own, weights=sizes)),
            subsets={part.name: value for part, value in zip(parts, own, strict=True)},
            pairs=sum(sizes),
        )
    return result


def average(sets: Mapping[str, SetSimilarity]) -> float:
    """The mean of the sets' correlations, as the field's tables close with."""
    return float(np.mean([entry.all for entry in sets.values()]))


def _cosines(embeddings: Tensor, row: Mapping[str, int], part: SentencePairs) -> np.ndarray:
    first, second = (embeddings[[row[text] for text in side]] for side in (part.first, part.second))
    cosines: np.ndarray = (first * second).sum(dim=-1).numpy()
    return cosines
