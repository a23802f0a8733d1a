"""What a part of the evaluation needs of the model and of the collection, or why it is left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from crossalign.encode import image_source, text_source
from crossalign.suite.lookup import Lookup
from crossalign.suite.spaces import EncodedPart, encode_part
from crossalign.suite.subject import Subject

__all__ = ["PAIRS_ALONE", "LeftOutError", "encode_judged", "need_photos", "need_texts", "pair_cosines"]

_WORDS_ALONE = "a sentence encoder embeds no photos"
PAIRS_ALONE = "the model scores pairs and has no uni-modal heads, so it does not compare {} with each other"


class LeftOutError(Exception):
    """A part that the data or the model does not allow; the message says why."""


def need_texts(subject: Subject) -> None:
    """Leave a part out that compares texts with each other, where the model cannot."""
    if not subject.compares_texts:
        raise LeftOutError(PAIRS_ALONE.format("texts"))


def need_photos(subject: Subject) -> None:
    """Leave a part out that needs photos, where the model knows none."""
    if subject.model is None:
        raise LeftOutError(_WORDS_ALONE)


def encode_judged(
    subject: Subject, lookup: Lookup, image_ids: Sequence[str], caption_ids: Sequence[str], progress: bool
) -> EncodedPart:
    """Judged images and captions, by the stores where there are some.

    Raises:
        LeftOutError: photos are not there.
    """
    assert subject.model is not None
    assert subject.sources is not None
    if not subject.sources.image_stores and (missing := lookup.photos_missing(image_ids)):
        raise LeftOutError(f"{missing:,} of the {len(image_ids):,} photos that are judged are not there")
    split = lookup.part(image_ids, caption_ids)
    return encode_part(
        subject.model,
        image_source(subject.model, lookup.collection, split, subject.sources.image_stores),
        text_source(subject.model, split, subject.sources.text_store),
        progress=progress,
    )


def pair_cosines(embeddings: Tensor, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines ``(p,)`` of the rows that two lists of positions ``(p,)`` name."""
    unit = torch.nn.functional.normalize(embeddings.double(), dim=-1)
    rows, columns = torch.from_numpy(first), torch.from_numpy(second)
    # A run of pairs at a time: a pair takes twice the width.
    parts = [
        (unit[some] * unit[other]).sum(dim=-1)
        for some, other in zip(rows.split(4096), columns.split(4096), strict=True)
    ]
    cosines: np.ndarray = torch.cat(parts).numpy()
    return cosines
