"""What one training step sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from crossalign.structures import map_tensors

__all__ = ["Batch", "ImageInputs", "TeacherFeatures", "TextInputs", "WordNotes"]

M = TypeVar("M", bound="_Movable")


class _Movable:
    def to(self: M, device: torch.device | str) -> M:
        """The same inputs with every tensor on ``device``."""
        return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), self)


@dataclass
class ImageInputs(_Movable):
    """B images, either as stored features or as pixels.

    Attributes:
        features: ``(B, N, C)`` region or grid features, zero padded.
        mask: ``(B, N)`` bool, true where a region is real.
        boxes: ``(B, N, 4)`` corners ``x0 y0 x1 y1`` relative to the image, in ``[0, 1]``.
        pixels: ``(B, 3, H, W)`` pre-processed photos.
        visible: ``(B, 4)`` the part of each photo that its pixels show; None where it is the whole photo.
        aspect: ``(B,)`` width over height of each photo in pixels; None where sizes are not known.
    """

    features: Tensor | None = None
    mask: Tensor | None = None
    boxes: Tensor | None = None
    pixels: Tensor | None = None
    visible: Tensor | None = None
    aspect: Tensor | None = None


@dataclass
class TextInputs(_Movable):
    """B captions, either as token ids or as stored token features.

    Attributes:
        tokens: ``(B, W)`` int64 token ids, padded.
        features: ``(B, W, C)`` token features of a frozen encoder, zero padded.
        mask: ``(B, W)`` bool, true where a token is real.
    """

    mask: Tensor
    tokens: Tensor | None = None
    features: Tensor | None = None


@dataclass
class WordNotes(_Movable):
    """What is known about the tokens of B captions; there only where an objective asks for it.

    Attributes:
        objects: ``(B, W, 4)`` box ``x0 y0 x1 y1`` of the object that each token means, relative to the image; all
            zero where it means none.
        regions: ``(B, W, R)`` bool, which regions of the caption's image show that object.
        chosen: ``(B, W)`` bool, tokens of words of the classes asked for.
    """

    objects: Tensor | None = None
    regions: Tensor | None = None
    chosen: Tensor | None = None


@dataclass
class TeacherFeatures(_Movable):
    """What uni-modal teachers make of a batch; there only where an objective asks for it.

    Attributes:
        image: ``(U, T)`` vectors of the U different images, of any norm.
        text: ``(B, T')`` vectors of the captions.
    """

    image: Tensor
    text: Tensor


@dataclass
class Batch(_Movable):
    """B matched image-caption pairs.

    Attributes:
        image: the U different images of the batch.
        image_rows: ``(B,)`` int64, for each pair the row of its image among the U.
        image_ids: ``(B,)`` int64, position of each pair's image in its split; equal values are the same image.
        caption_ids: the captions' ids in the collection, for messages.
        notes: what is known about the captions' tokens, where it was asked for.
        teachers: teachers' vectors of the images and captions, where they were asked for.
    """

    image: ImageInputs
    image_rows: Tensor
    text: TextInputs
    image_ids: Tensor
    caption_ids: tuple[str, ...] = ()
    notes: WordNotes | None = None
    teachers: TeacherFeatures | None = None
