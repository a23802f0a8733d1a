"""What Local Concept Alignment is given of a batch: which units, and which of them may correspond."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.alignment.centring import centred_units
from crossalign.alignment.pairing import other_images
from crossalign.data.batch import WordNotes
from crossalign.encoding import Encoding
from crossalign.normalization import unit_norm
from crossalign.objective.settings import LCASettings

__all__ = ["AlignedUnits", "aligned_units", "compared_units", "compared_words"]


@dataclass(frozen=True)
class AlignedUnits:
    """The arguments of :func:`~crossalign.alignment.lca_loss` for U images and B texts, in its order."""

    regions: Tensor
    words: Tensor
    region_mask: Tensor
    word_mask: Tensor
    image_rows: Tensor
    allowed: Tensor | None


def compared_units(settings: LCASettings, encoding: Encoding) -> Tensor:
    """The unit-norm units ``(B, N, D)`` of one side that are compared."""
    units = unit_norm(encoding.context) if settings.units == "context" else encoding.locals
    return centred_units(units, encoding.mask) if settings.centred else units


def compared_words(text: Encoding, notes: WordNotes | None) -> Tensor:
    """Which of the texts' units ``(B, N)`` are compared."""
    if notes is None or notes.chosen is None:
        return text.mask
    return text.mask & _of_units(notes.chosen, text)


def aligned_units(
    settings: LCASettings, image: Encoding, text: Encoding, image_rows: Tensor, notes: WordNotes | None
) -> AlignedUnits:
    """What is aligned with what in a batch; depends on nothing but the batch.

    Args:
        image_rows: ``(B,)`` row of each text's image.
        notes: what is known of the captions' tokens; needed where ``settings`` ask for it.
    """
    word_mask, allowed = compared_words(text, notes), None
    if settings.correspondence == "shuffled":
        shuffled = other_images(image_rows, len(image.mask))
        word_mask = word_mask & (shuffled != image_rows).unsqueeze(1)
        image_rows = shuffled
    elif settings.correspondence == "true":
        assert notes is not None
        assert notes.regions is not None
        allowed = _of_units(notes.regions, text)
    return AlignedUnits(
        compared_units(settings, image),
        compared_units(settings, text),
        image.mask,
        word_mask,
        image_rows,
        allowed,
    )


def _of_units(values: Tensor, text: Encoding) -> Tensor:
    """What is known of tokens ``(B, W, ...)``, for the units ``(B, N, ...)`` that the text tower made of them."""
    places = text.aux.get("places")
    if places is not None:
        return values[torch.arange(len(values), device=values.device).unsqueeze(1), places]
    missing = text.mask.shape[1] - values.shape[1]
    return F.pad(values, (0, 0) * (values.dim() - 2) + (0, missing))
