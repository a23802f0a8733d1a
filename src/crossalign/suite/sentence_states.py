"""Token states of sentences on disk: models with the same frozen text encoder read what the first of them left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crossalign.data.batch import TextInputs
from crossalign.data.extract import extract_sentences
from crossalign.data.features import FeatureStore
from crossalign.encode import encode_each_text
from crossalign.encoders.hf import TextBackbone
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.lock import FileLock
from crossalign.model import RetrievalModel
from crossalign.suite.spaces import embedding_alone, own_space
from crossalign.towers import TextTower
from crossalign.towers.settings import CAMERATextSettings

__all__ = ["SentenceStates"]


class SentenceStates:
    """Embeds sentences from the token states in a folder, which it computes where they are missing.

    Encoding the 32,000 sentences of the STS sets takes MiniLM minutes, and what a small model does with the states
    takes seconds; a study asks all its models. The states are float32, so the embeddings are those of
    :meth:`~crossalign.model.RetrievalModel.encode_texts` up to rounding.

    Args:
        folder: of the stores, one for every text encoder and list of sentences; made when first needed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def embed(self, model: RetrievalModel, texts: Sequence[str], *, progress: bool = False) -> Tensor | None:
        """Different sentences ``(n, E)`` as the model compares texts with each other, float32 on the CPU.

        None where stored states are of no use: the text encoder was trained with the model or is none of Hugging
        Face, its padding counts, or another process is just writing the states.

        Raises:
            CrossAlignError: the folder cannot be written, or the model has no embeddings of single texts.
        """
        model.require_embeddings(own_space(model))
        backbone = _frozen_backbone(model)
        store = None if backbone is None else self._store(backbone, texts, progress)
        return None if store is None else _embed(model, store, texts, progress)

    def _store(self, backbone: TextBackbone, texts: Sequence[str], progress: bool) -> FeatureStore | None:
        place = self.folder / _key(backbone, texts)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(place.with_suffix(".lock"), "token states of sentences")
        except OSError as error:
            raise CrossAlignError(
                f"{self.folder}: token states cannot be kept there ({error.strerror}); choose another folder"
            ) from None
        with lock:
            if not lock.acquire():
                return None
            return extract_sentences(texts, place, backbone, dtype="float32", progress=progress).store


def _frozen_backbone(model: RetrievalModel) -> TextBackbone | None:
    """The text encoder whose states another model would share."""
    tower = model.text_tower
    if not isinstance(tower, TextTower) or tower.config.train_backbone:
        return None
    encoder = tower.config.encoder
    counts_padding = isinstance(encoder, CAMERATextSettings) and encoder.count_padding
    return None if counts_padding else tower.backbone


def _key(backbone: TextBackbone, texts: Sequence[str]) -> str:
    """Names the store: what the states depend on, but not where the encoder lies."""
    told = json.dumps([backbone.described(), list(texts)])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _embed(model: RetrievalModel, store: FeatureStore, texts: Sequence[str], progress: bool) -> Tensor:
    positions = store.index(texts)

    def inputs(chosen: npt.NDArray[np.int64]) -> TextInputs:
        part = store.batch(positions[chosen])
        return TextInputs(features=torch.from_numpy(part.features), mask=torch.from_numpy(part.mask))

    def kept(encoding: Encoding) -> Tensor:
        return embedding_alone(model, encoding)

    parts, order = encode_each_text(model, inputs, store.unit_counts(positions), kept, 256, progress)
    return torch.cat(parts)[order.argsort()]
