"""Encoding a whole split, from stored features or from raw photos and captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crossalign.data.batch import TextInputs
from crossalign.data.collection import Collection, Split
from crossalign.data.features import FeatureStore
from crossalign.data.loading import ImageSource, TextSource
from crossalign.encoding import Encoding, Space
from crossalign.model import RetrievalModel, embedding_in, evaluation_mode, scored_units
from crossalign.progress import tracked
from crossalign.scorers.blocks import PackedUnits

__all__ = [
    "encode_each",
    "encode_each_text",
    "encode_split",
    "encode_units",
    "image_source",
    "packed_units",
    "text_source",
]


def image_source(
    model: RetrievalModel,
    collection: Collection,
    split: Split,
    stores: Sequence[FeatureStore],
    *,
    flip: float = 0.0,
    crop: float = 1.0,
) -> ImageSource:
    """The image inputs a model takes: the stores' rows, or photos pre-processed as the model asks.

    Args:
        flip: probability of mirroring a photo in training.
        crop: smallest share of each side that a random training crop keeps.
    """
    image = model.config.image
    if stores:
        return ImageSource(collection, split, stores)
    settings = model.image_tower.input
    if settings is None or image.regions != "grid":
        # The model itself finds the boxes, or says why it takes no photos.
        return ImageSource(collection, split, photo_inputs=model.image_inputs)
    return ImageSource(collection, split, preprocess=settings, flip=flip, crop=crop)


def text_source(model: RetrievalModel, split: Split, store: FeatureStore | None) -> TextSource:
    """The text inputs a model takes: the store's rows, or token ids."""
    return TextSource(split, store, model.text_tower.tokenize)


def encode_split(
    model: RetrievalModel,
    images: ImageSource,
    texts: TextSource,
    *,
    batch_size: int = 256,
    progress: bool = False,
    space: Space = "cross",
) -> tuple[Tensor, Tensor]:
    """Embed every image and every caption of a split.

    Args:
        space: ``"cross"``: images are compared with captions; ``"uni"``: images with images, captions with captions.

    Returns:
        Images ``(n, D)`` or ``(n, V, D)`` and captions ``(m, D)``, float32 on the CPU, in the split's order.

    Raises:
        CrossAlignError: a model without such embeddings; a photo that cannot be read.
    """
    model.require_embeddings(space)

    def kept(encoding: Encoding) -> Tensor:
        return embedding_in(encoding, space).float().cpu()

    seen, told, order = encode_each(model, images, texts, kept, batch_size, progress)
    embeddings = torch.cat(told)
    text = torch.empty_like(embeddings)
    text[order] = embeddings
    return torch.cat(seen), text


def encode_units(
    model: RetrievalModel,
    images: ImageSource,
    texts: TextSource,
    *,
    batch_size: int = 256,
    progress: bool = False,
) -> tuple[PackedUnits, PackedUnits]:
    """The units of every image and every caption of a split, as a scorer takes them.

    Returns:
        Regions of n images and words of m captions, float32 on the CPU, in the split's order.

    Raises:
        CrossAlignError: a photo that cannot be read.
    """
    seen, told, order = encode_each(model, images, texts, packed_units, batch_size, progress)
    return PackedUnits.cat(seen), PackedUnits.cat(told).reordered(order.argsort())


T = TypeVar("T")


@torch.inference_mode()
def encode_each(
    model: RetrievalModel,
    images: ImageSource,
    texts: TextSource,
    kept: Callable[[Encoding], T],
    batch_size: int,
    progress: bool,
) -> tuple[list[T], list[T], Tensor]:
    """What is kept of each batch of images and of captions, and which captions stand where in the latter.

    Args:
        kept: of an encoded batch.

    Returns:
        A part for each batch of images, one for each batch of captions, and ``(m,)`` the position in the split of each
        caption in the order of these parts.

    Raises:
        CrossAlignError: a photo that cannot be read.
    """
    count = len(images.positions[0]) if images.stores else len(images.paths)
    starts = range(0, count, batch_size)
    with evaluation_mode(model), tracked(starts, "encode images", enabled=progress) as steps:
        seen = [
            kept(model.image_tower(images(np.arange(start, min(start + batch_size, count))).to(model.device)))
            for start in steps
        ]
    lengths = [len(text) for text in texts.texts]
    return seen, *encode_each_text(model, texts, lengths, kept, batch_size, progress)


@torch.inference_mode()
def encode_each_text(
    model: RetrievalModel,
    texts: Callable[[npt.NDArray[np.int64]], TextInputs],
    lengths: Sequence[int] | npt.NDArray[np.int64],
    kept: Callable[[Encoding], T],
    batch_size: int,
    progress: bool,
) -> tuple[list[T], Tensor]:
    """The half of :func:`encode_each` that is about captions: what is kept of each batch, and as there the position of
    each text in the order of these parts.

    Args:
        texts: inputs of the texts at some positions.
        lengths: of all texts; those of like length go together, so that little is spent on padding.
    """
    order = np.argsort(lengths, kind="stable")
    starts = range(0, len(order), batch_size)
    with evaluation_mode(model), tracked(starts, "encode captions", enabled=progress) as steps:
        told = [
            kept(model.text_tower(texts(order[start : start + batch_size]).to(model.device)))
            for start in steps
        ]
    return told, torch.from_numpy(order)


def packed_units(encoding: Encoding) -> PackedUnits:
    """The real units of a batch as a scorer takes them, on the CPU."""
    return PackedUnits.of(scored_units(encoding).cpu(), encoding.mask.cpu())
