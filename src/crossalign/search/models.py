"""What search needs of models: embeddings in one or two spaces and a fingerprint, perhaps cut; scores of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from crossalign.devices import usable_device
from crossalign.encoding import Encoding, Space
from crossalign.ensemble import EnsembleModel, is_ensemble, open_ensemble
from crossalign.errors import CrossAlignError
from crossalign.model import RetrievalModel, embedding_in, evaluation_mode
from crossalign.search.scan import Failure
from crossalign.truncation import check_width, truncate

__all__ = [
    "Embedded",
    "EmbeddingModel",
    "PhotoScorer",
    "TruncatedModel",
    "embed_images",
    "embed_texts",
    "load_model",
    "model_name",
    "uni_width",
]


_SPACES: tuple[Space, Space] = ("cross", "uni")


class EmbeddingModel(Protocol):
    """The part of :class:`crossalign.RetrievalModel` that search uses.

    A model with uni-modal heads also has ``uni_modal_width``, and its ``encode_images`` and ``encode_texts`` take
    ``space="uni"``; see :func:`uni_width`.
    """

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


@dataclass(frozen=True)
class Embedded:
    """What an index stores of items.

    Attributes:
        cross: ``(n, V, D)`` float32, compared with the other modality; V is 1 for a model of one view.
        uni: ``(n, E)`` float32 of unit norm, compared with the same modality; None without uni-modal heads.
    """

    cross: np.ndarray
    uni: np.ndarray | None = None


def uni_width(model: EmbeddingModel) -> int | None:
    """E, width of a model's uni-modal embeddings; None for a model without heads for them."""
    if isinstance(model, TruncatedModel):
        return uni_width(model.model)
    width = model.config.uni_modal_width if isinstance(model, RetrievalModel) else None
    return width or getattr(model, "uni_modal_width", None)


def embed_images(model: EmbeddingModel, images: Sequence[Image], *, uni: bool = False) -> Embedded:
    """Embed pictures, in both spaces at once where ``uni`` is asked for.

    Raises:
        CrossAlignError: an embedding is not finite.
    """
    if uni and isinstance(inner := _whole(model), RetrievalModel):
        found = _in_both(model, inner, lambda: inner.image_tower(inner.image_inputs(images)))
    else:
        size = max(1, len(images))
        found = (
            model.encode_images(images, batch_size=size),
            _uni(model).encode_images(images, batch_size=size, space="uni") if uni else None,
        )
    return _checked(*found, "image")


def embed_texts(model: EmbeddingModel, texts: Sequence[str], *, uni: bool = False) -> Embedded:
    """Embed texts, in both spaces at once where ``uni`` is asked for.

    Raises:
        CrossAlignError: an embedding is not finite.
    """
    if uni and isinstance(inner := _whole(model), RetrievalModel):
        found = _in_both(model, inner, lambda: inner.text_tower(inner.text_inputs(texts)))
    else:
        size = max(1, len(texts))
        found = (
            model.encode_texts(texts, batch_size=size),
            _uni(model).encode_texts(texts, batch_size=size, space="uni") if uni else None,
        )
    return _checked(*found, "text")


def _whole(model: EmbeddingModel) -> EmbeddingModel:
    """The model as it is before it is cut."""
    return model.model if isinstance(model, TruncatedModel) else model


def _uni(model: EmbeddingModel) -> Any:
    """The model as one that takes ``space``: uni-modal embeddings are not cut."""
    return _whole(model)


def _in_both(
    model: EmbeddingModel, inner: RetrievalModel, encode: Callable[[], Encoding]
) -> tuple[Tensor, Tensor | None]:
    """Both embeddings by one pass of the tower."""
    with torch.inference_mode(), evaluation_mode(inner):
        encoding = encode()
    cross, alone = (embedding_in(encoding, space).float().cpu() for space in _SPACES)
    if isinstance(model, TruncatedModel):
        cross = truncate(cross, model.dim, model.embedding_parts)
    return cross, alone


def _checked(cross: Tensor, uni: Tensor | None, what: str) -> Embedded:
    vectors = cross.numpy().astype(np.float32, copy=False)
    if vectors.ndim == 2:
        vectors = vectors[:, None]
    alone = None if uni is None else uni.numpy().astype(np.float32, copy=False)
    for given in (vectors, alone):
        if given is not None and not np.isfinite(given).all():
            raise CrossAlignError(
                f"the model's {what} embeddings are not finite: its training has diverged; train it again"
            )
    return Embedded(vectors, alone)
