"""What is evaluated: a retrieval model with its data, or a sentence encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from crossalign.data.collection import Collection
from crossalign.errors import CrossAlignError
from crossalign.evaluation.of_model import check_stores
from crossalign.evaluation.run_sources import run_recipe, run_sources, told_name, trained_on
from crossalign.model import RetrievalModel
from crossalign.sources import Sources
from crossalign.suite.sentence_encoder import SentenceEncoder, is_sentence_encoder
from crossalign.suite.sentence_states import SentenceStates
from crossalign.suite.spaces import embed_texts, embeds_alone

__all__ = ["Subject", "open_subject"]


@dataclass(frozen=True)
class Subject:
    """A model or a sentence encoder, and what it is given.

    Attributes:
        name: as it was told.
        model: None for a sentence encoder.
        encoder: None for a model.
        sources: the model's collection and stores; None without one, and for a sentence encoder.
        collection: for a sentence encoder, which reads captions alone.
        trained_on: name of the collection the model was trained on; None where that is not known.
    """

    name: str
    model: RetrievalModel | None
    encoder: SentenceEncoder | None
    sources: Sources | None
    collection: Collection | None
    trained_on: str | None

    @property
    def fingerprint(self) -> str:
        if self.model is not None:
            return self.model.fingerprint
        assert self.encoder is not None
        return self.encoder.fingerprint

    @property
    def uni_modal(self) -> bool:
        """Whether it has heads of their own for comparing within a modality."""
        return self.model is not None and self.model.config.uni_modal_head is not None

    @property
    def compares_texts(self) -> bool:
        """Whether texts have embeddings to compare with each other."""
        return self.model is None or embeds_alone(self.model)

    def embed_texts(
        self, texts: Sequence[str], progress: bool = False, states: SentenceStates | None = None
    ) -> Tensor:
        """Texts ``(n, E)`` as they are compared with each other.

        Args:
            states: kept of different texts between models, where theirs can be.
        """
        if self.model is not None:
            kept = None if states is None else states.embed(self.model, texts, progress=progress)
            return embed_texts(self.model, texts, progress=progress) if kept is None else kept
        assert self.encoder is not None
        return self.encoder(texts, progress=progress)


def open_subject(
    name: str | Path,
    collection: str | Path | None = None,
    image_features: Sequence[str] = (),
    text_features: str | None = None,
    *,
    raw: bool = False,
    device: str | torch.device = "cpu",
) -> Subject:
    """Open what ``name`` stands for: a training run, a model folder, a model of the Hub, or a sentence encoder.

    Raises:
        CrossAlignError: nothing is there or it does not fit.
    """
    if is_sentence_encoder(name):
        if image_features or text_features is not None or raw:
            raise CrossAlignError(f"{name}: a sentence encoder reads words alone; leave stores and --raw out")
        opened = None if collection is None else Collection.load(collection)
        return Subject(told_name(name), None, SentenceEncoder(name, device=device), None, opened, None)
    recipe = run_recipe(name)
    sources = None
    if collection is not None or recipe is not None or image_features or text_features is not None:
        sources = run_sources(name, collection, image_features, text_features, raw=raw)
    model = RetrievalModel.from_pretrained(name, device)
    if sources is not None:
        check_stores(model, sources)
    return Subject(
        told_name(name),
        model,
        None,
        sources,
        None if sources is None else sources.collection,
        trained_on(name),
    )
