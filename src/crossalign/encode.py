"""Embedding a whole split, from stored features or from raw photos and captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from crossalign.data.collection import Collection, Split
from crossalign.data.features import FeatureStore
from crossalign.data.loading import ImageSource, TextSource
from crossalign.model import RetrievalModel
from crossalign.progress import track

__all__ = ["encode_split", "image_source", "text_source"]


def image_source(
    model: RetrievalModel,
    collection: Collection,
    split: Split,
    stores: Sequence[FeatureStore],
    **augmentation: float,
) -> ImageSource:
    """The image inputs a model takes: the stores' rows, or photos pre-processed as the model asks."""
    backbones = model.config.image.backbones
    preprocess = backbones[0].input if backbones else None
    return ImageSource(collection, split, stores, preprocess, **augmentation)


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
    training = model.training
    model.eval()
    count = len(images.positions[0]) if images.stores else len(images.paths)
    image_parts = [
        model.image_tower(images(np.arange(start, min(start + batch_size, count))).to(model.device))
        .embedding.float()
        .cpu()
        for start in track(range(0, count, batch_size), "encode images", enabled=progress)
    ]
    # Captions of like length together: little is spent on padding.
    order = np.argsort([len(text) for text in texts.texts], kind="stable")
    embeddings = torch.cat(
        [
            model.text_tower(texts(order[start : start + batch_size]).to(model.device))
            .embedding.float()
            .cpu()
            for start in track(range(0, len(order), batch_size), "encode captions", enabled=progress)
        ]
    )
    text = torch.empty_like(embeddings)
    text[torch.from_numpy(order)] = embeddings
    model.train(training)
    return torch.cat(image_parts), text
