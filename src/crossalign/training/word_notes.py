"""What an objective wants to know about words: found once a caption, before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from crossalign.data.batch import WordNotes
from crossalign.data.collection import Split
from crossalign.data.scenes import SceneTruth, WordTruth
from crossalign.data.token_table import TokenTable
from crossalign.data.word_classes import classified_words
from crossalign.errors import CrossAlignError
from crossalign.evaluation.region_match import Rule, Span, pointing_regions, regions_that_show
from crossalign.model import RetrievalModel
from crossalign.objective import ObjectiveSettings
from crossalign.sources import Sources

__all__ = ["TokenNotes", "token_notes", "with_regions"]

# First and last-plus-one character of each token of a caption.
Offsets = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class TokenNotes:
    """Notes on the captions of a split, by their positions.

    Attributes:
        objects: ``(4,)`` box of the object that a token means; None where nobody asks.
        chosen: bool, whether a token belongs to a word of the classes asked for; None where all do.
    """

    objects: TokenTable | None = None
    chosen: TokenTable | None = None

    def __call__(self, captions: np.ndarray, width: int) -> WordNotes:
        """Notes on these captions, ``width`` tokens wide."""
        return WordNotes(
            objects=None if self.objects is None else self.objects.batch(captions, width),
            chosen=None if self.chosen is None else self.chosen.batch(captions, width),
        )


def token_notes(
    objective: ObjectiveSettings, model: RetrievalModel, sources: Sources, split: Split
) -> TokenNotes | None:
    """What ``objective`` asks to know about the tokens of the split's captions; None where it is nothing.

    Raises:
        CrossAlignError: it cannot be known of this collection, or a package that it needs is not installed.
    """
    lca = objective.lca
    if lca is None or (lca.correspondence != "true" and lca.words == ("all",)):
        return None
    offsets = [model.text_tower.offsets(text) for text in split.texts]
    return TokenNotes(
        objects=_object_table(model, sources, split, offsets) if lca.correspondence == "true" else None,
        chosen=None if lca.words == ("all",) else _class_table(lca.words, split, offsets),
    )


def _class_table(classes: Sequence[str], split: Split, offsets: Sequence[Offsets]) -> TokenTable:
    """Whether each token shares a character with a word of one of these classes."""
    rows = []
    for tokens, words in zip(offsets, classified_words(split.texts), strict=True):
        chosen = [word for word in words if word.word_class in classes]
        rows.append(np.array([any(_meet(token, word) for word in chosen) for token in tokens], bool))
    return TokenTable.of(rows)


def _object_table(
    model: RetrievalModel, sources: Sources, split: Split, offsets: Sequence[Offsets]
) -> TokenTable:
    """The box of the object that each token means."""
    try:
        truth = SceneTruth.load(sources.collection)
    except CrossAlignError as error:
        raise CrossAlignError(f"objective.lca.correspondence: true: {error}") from None
    seen = model.image_tower.input
    if not sources.image_stores and seen is not None and seen.resize != "squash":
        raise CrossAlignError(
            "objective.lca.correspondence: true: a photo's cells are known where the whole photo is seen; set "
            "model.image.backbones' input to resize: squash, or train on data.image_features"
        )
    return TokenTable.of(
        [
            _boxes(tokens, truth.words(caption_id))
            for caption_id, tokens in zip(split.caption_ids, offsets, strict=True)
        ]
    )


def with_regions(notes: WordNotes, boxes: Tensor, image_rows: Tensor, rule: Rule, count: int) -> WordNotes:
    """The notes with the regions that show each token's object, where objects are known.

    A region that covers the whole picture shows nothing in particular.

    Args:
        boxes: ``(U, R, 4)`` of the regions of U images.
        image_rows: ``(B,)`` row of each caption's image.
        rule: what makes a region right.
        count: R of the encodings, which have one region at least.
    """
    if notes.objects is None:
        return notes
    own = boxes[image_rows].to(notes.objects)
    means = (notes.objects[..., 2:] > notes.objects[..., :2]).all(dim=-1, keepdim=True)
    right = regions_that_show(own, notes.objects, rule) & pointing_regions(own).unsqueeze(1) & means
    return replace(notes, regions=F.pad(right, (0, count - right.shape[2])))


def _meet(token: tuple[int, int], word: Span) -> bool:
    """Whether they share a character."""
    return max(token[0], word.start) < min(token[1], word.end)


def _boxes(offsets: Offsets, words: Sequence[WordTruth]) -> np.ndarray:
    """The object's box of each token, ``(W, 4)`` float32: that of the first known word it shares a character with."""
    boxes = np.zeros((len(offsets), 4), np.float32)
    for row, token in zip(boxes, offsets, strict=True):
        for word in words:
            if _meet(token, word):
                row[:] = word.box
                break
    return boxes
