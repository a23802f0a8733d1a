"""Embedding a whole split, from stored features or from raw photos and captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from crossalign.data.collection import Collection, Split
from crossalign.data.features import FeatureStore
from crossalign.data.loading import ImageSource, TextSource
from crossalign.model import RetrievalModel, evaluation_mode
from crossalign.progress import track

__all__ = ["encode_split", "image_source", "text_source"]


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
    if not image.backbones or image.regions == "boxes":
        # The model itself finds the boxes, or says why it takes no photos.
        return ImageSource(collection, split, photo_inputs=model.image_inputs)
    return ImageSource(collection, split, preprocess=image.backbones[0].input, flip=flip, crop=crop)


def text_source(model: RetrievalModel, split: Split, store: FeatureStore | None) -> TextSource:
    """The text inputs a model takes: the store's rows, or token ids."""
    return TextSource(split, store, model.text_tower.tokenize)


@torch.inference_mode()
def encode_split(
    model: RetrievalModel,
    images: ImageSource,
    texts: TextSource,
    *,
    batch_size: int = 256,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Embed every image and every caption of a split.

    Returns:
        Images ``(n, D)`` or ``(n, V, D)`` and captions ``(m, D)``, float32 on the CPU, in the split's order.
    """
    count = len(images.positions[0]) if images.stores else len(images.paths)
    # Captions of like length together: little is spent on padding.
    order = np.argsort([len(text) for text in texts.texts], kind="stable")
    with evaluation_mode(model):
        image_parts = [
            model.image_tower(images(np.arange(start, min(start + batch_size, count))).to(model.device))
            .embedding.float()
            .cpu()
            for start in track(range(0, count, batch_size), "encode images", enabled=progress)
        ]
        text_parts = [
            model.text_tower(texts(order[start : start + batch_size]).to(model.device))
            .embedding.float()
            .cpu()
            for start in track(range(0, len(order), batch_size), "encode captions", enabled=progress)
        ]
    embeddings = torch.cat(text_parts)
    text = torch.empty_like(embeddings)
    text[torch.from_numpy(order)] = embeddings
    return torch.cat(image_parts), text
