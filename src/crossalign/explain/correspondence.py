"""Which word chose which region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.evaluation.encoded_pairs import EncodedPair, Units
from crossalign.evaluation.region_match import pointing_regions, span_vectors
from crossalign.explain.words import CaptionWord, caption_words

__all__ = ["Correspondence", "WordRegion", "correspond"]


@dataclass(frozen=True)
class WordRegion:
    """A word with the region it is most similar to, as positions among words and regions."""

    word: int
    region: int
    similarity: float


@dataclass(frozen=True)
class Correspondence:
    """The words of a caption and the regions of its image, compared.

    Attributes:
        text: the caption.
        words: its W words that the model has read; words cut off at the end of a long caption are not among them.
        boxes: ``(R, 4)`` relative xyxy boxes of the regions.
        similarity: ``(W, R)`` cosine of each word with each region; for a word of several tokens the mean of theirs.
        candidates: ``(R,)`` bool, the regions that a word may choose: those that do not cover the whole picture,
            or all where there are no others.
        choices: for each word its most similar candidate.
        pairs: the most similar word-region pairs, the best first, each word once.
        score: similarity of image and caption as a whole, as retrieval sees it.
        units: whether words and regions were compared before or after context reasoning.
    """

    text: str
    words: tuple[CaptionWord, ...]
    boxes: Tensor
    similarity: Tensor
    candidates: Tensor
    choices: tuple[WordRegion, ...]
    pairs: tuple[WordRegion, ...]
    score: float
    units: Units

    def to_json(self) -> dict[str, Any]:
        """As plain values: each word with its similarities, its region and, if it has one, its rank."""
        ranks = {pair.word: rank for rank, pair in enumerate(self.pairs, start=1)}
        return {
            "caption": self.text,
            "score": self.score,
            "units": self.units,
            "regions": [
                {"box": box, "candidate": candidate}
                for box, candidate in zip(self.boxes.tolist(), self.candidates.tolist(), strict=True)
            ],
            "words": [
                {
                    "word": word.text,
                    "start": word.start,
                    "end": word.end,
                    "region": choice.region,
                    "similarity": choice.similarity,
                    "similarities": row,
                    "rank": ranks.get(position),
                }
                for position, (word, choice, row) in enumerate(
                    zip(self.words, self.choices, self.similarity.tolist(), strict=True)
                )
            ],
            "pairs": [
                {
                    "rank": rank,
                    "word": self.words[pair.word].text,
                    "start": self.words[pair.word].start,
                    "end": self.words[pair.word].end,
                    "region": pair.region,
                    "box": self.boxes[pair.region].tolist(),
                    "similarity": pair.similarity,
                }
                for rank, pair in enumerate(self.pairs, start=1)
            ],
        }


def correspond(
    pair: EncodedPair, *, top: int = 5, units: Units = "locals", all_words: bool = False
) -> Correspondence:
    """Compare every word of a caption with every region of its image.

    Local Concept Alignment trains exactly this choice: each word takes its most similar region (SelfAlign, Zhuang
    et al., arXiv 2308.14009, section III-B).

    Args:
        top: how many pairs are wanted; there may be fewer words. A word that stands twice in the caption and chooses
            the same region counts once.
        units: ``locals``, which Local Concept Alignment compares, or ``context``.
        all_words: articles, prepositions and their like may be among the pairs, too. A caption of nothing else has
            them in any case.

    Raises:
        CrossAlignError: the caption has no word that the model reads, or the image has no region.
    """
    if not len(pair.boxes):
        raise CrossAlignError(f"{pair.image_id}: the image has no region that a word could choose")
    said = caption_words(pair.text)
    vectors, covered = span_vectors(pair.words[units], pair.offsets, said)
    if not covered.any():
        raise CrossAlignError(
            f"caption '{pair.text}': no word that the model reads; say what the picture shows"
        )
    words = tuple(word for word, kept in zip(said, covered.tolist(), strict=True) if kept)
    similarity = vectors[covered] @ pair.regions[units].T
    candidates = pointing_regions(pair.boxes)
    if not candidates.any():
        candidates = torch.ones_like(candidates)
    best = similarity.masked_fill(~candidates, -torch.inf).max(dim=1)
    choices = tuple(
        WordRegion(word, region, value)
        for word, (region, value) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    )
    return Correspondence(
        text=pair.text,
        words=words,
        boxes=pair.boxes,
        similarity=similarity,
        candidates=candidates,
        choices=choices,
        pairs=_best(words, choices, top, all_words),
        score=pair.similarity,
        units=units,
    )


def _best(
    words: tuple[CaptionWord, ...], choices: tuple[WordRegion, ...], top: int, all_words: bool
) -> tuple[WordRegion, ...]:
    naming = [choice for choice in choices if all_words or words[choice.word].names]
    # The sort is stable: of a word's equal pairs the first in the caption is kept.
    ordered = sorted(naming or choices, key=lambda choice: -choice.similarity)
    different = {(words[choice.word].text.lower(), choice.region): choice for choice in reversed(ordered)}
    kept = set(different.values())
    return tuple(choice for choice in ordered if choice in kept)[:top]
