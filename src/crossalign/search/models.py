"""What search needs of models: embeddings and a fingerprint of one, perhaps cut; scores of another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL.Image import Image
from torch import Tensor

from crossalign.devices import usable_device
from crossalign.ensemble import EnsembleModel, is_ensemble, open_ensemble
from crossalign.errors import CrossAlignError
from crossalign.model import RetrievalModel
from crossalign.search.scan import Failure
from crossalign.truncation import check_width, truncate

__all__ = [
    "EmbeddingModel",
    "PhotoScorer",
    "TruncatedModel",
    "embed_images",
    "load_model",
    "model_name",
]


class EmbeddingModel(Protocol):
    """The part of :class:`crossalign.RetrievalModel` that search uses."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever an embedding could."""
        ...

    @property
    def dim(self) -> int:
        """D, width of an embedding; asked where it is to be cut."""
        ...

    @property
    def embedding_parts(self) -> int:
        """Vectors that an embedding consists of, see :func:`~crossalign.truncation.truncate`; asked as ``dim`` is."""
        ...

    def encode_images(self, images: Sequence[Image], batch_size: int = 32, progress: bool = False) -> Tensor:
        """``(n, D)`` or ``(n, V, D)``."""
        ...

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256, progress: bool = False) -> Tensor:
        """``(n, D)``."""
        ...


class PhotoScorer(Protocol):
    """The part of :class:`~crossalign.search.rerank.PhotoReranker` that search uses."""

    def scores(self, text: str, photos: Sequence[Path], progress: bool = False) -> list[float | Failure]:
        """How well a text fits each photo, or why that photo cannot be read."""
        ...


class TruncatedModel:
    """A model whose embeddings are cut to ``width``, on both sides alike; its fingerprint is the model's.

    Raises:
        CrossAlignError: a width that the model's embeddings do not have.
    """

    def __init__(self, model: EmbeddingModel, width: int) -> None:
        self._parts = model.embedding_parts
        check_width(width, model.dim, self._parts)
        self.model = model
        self.dim = width

    @property
    def fingerprint(self) -> str:
        """That of the model."""
        return self.model.fingerprint

    @property
    def embedding_parts(self) -> int:
        """As many as the model's."""
        return self._parts

    def encode_images(self, images: Sequence[Image], batch_size: int = 32, progress: bool = False) -> Tensor:
        """``(n, width)`` or ``(n, V, width)``."""
        return truncate(self.model.encode_images(images, batch_size, progress), self.dim, self._parts)

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256, progress: bool = False) -> Tensor:
        """``(n, width)``."""
        return truncate(self.model.encode_texts(texts, batch_size, progress), self.dim, self._parts)


def model_name(model: EmbeddingModel | str | Path) -> str | None:
    """What to write down to find a model again: an absolute folder or a Hub name; None for an object."""
    if not isinstance(model, str | Path):
        return None
    return str(Path(model).resolve()) if Path(model).exists() else str(model)


def load_model(
    model: EmbeddingModel | str | Path, device: str = "auto", width: int | None = None
) -> EmbeddingModel:
    """The model itself: loaded where a folder or a Hub name is given, cut where a width is.

    Args:
        model: a model, its folder or that of an ensemble, or its Hub name.
        device: ``auto`` takes an accelerator where there is one; ignored for a model given as an object.
        width: of the embeddings; None: as the model makes them.

    Raises:
        CrossAlignError: no model there, one that scores pairs, or a width that its embeddings do not have.
    """
    if width is not None:
        whole = load_model(model, device)
        if isinstance(whole, EnsembleModel):
            raise CrossAlignError(
                "--width cuts the embeddings of one model, this one is an ensemble; leave it out"
            )
        return TruncatedModel(whole, width)
    if not isinstance(model, str | Path):
        if isinstance(model, RetrievalModel):
            model.require_embeddings()
        return model
    if is_ensemble(model):
        return open_ensemble(model, usable_device(device))
    loaded = RetrievalModel.from_pretrained(model, usable_device(device))
    try:
        return load_model(loaded)
    except CrossAlignError as error:
        raise CrossAlignError(f"{model}: {error}") from None


def embed_images(model: EmbeddingModel, images: Sequence[Image]) -> np.ndarray:
    """Embed pictures: ``(n, V, D)`` float32 with V = 1 for a model of one view.

    Raises:
        CrossAlignError: an embedding is not finite.
    """
    vectors = (
        model.encode_images(images, batch_size=max(1, len(images))).numpy().astype(np.float32, copy=False)
    )
    if vectors.ndim == 2:
        vectors = vectors[:, None]
    if not np.isfinite(vectors).all():
        raise CrossAlignError(
            "the model's image embeddings are not finite: its training has diverged; train it again"
        )
    return vectors
