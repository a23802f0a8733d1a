"""What search needs of models: embeddings in one or two spaces and a fingerprint, perhaps cut; scores of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL.Image import Image
from torch import Tensor

from crossalign.devices import usable_device
from crossalign.encoding import Space
from crossalign.ensemble import is_ensemble, open_ensemble
from crossalign.errors import CrossAlignError
from crossalign.model import RetrievalModel
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
]


class EmbeddingModel(Protocol):
    """What search asks of a model: :class:`crossalign.RetrievalModel` and an ensemble of several have it."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever an embedding could."""
        ...

    @property
    def dim(self) -> int:
        """D, width of an embedding."""
        ...

    @property
    def embedding_parts(self) -> int | None:
        """Vectors that an embedding consists of, see :func:`~crossalign.truncation.truncate`; None: it is never cut."""
        ...

    @property
    def uni_modal_width(self) -> int | None:
        """E, width of a uni-modal embedding; None for a model without heads for it."""
        ...

    def require_embeddings(self, space: Space = "cross") -> None:
        """Raise CrossAlignError where the model has no embeddings to be compared in a space."""
        ...

    def encode_images_in(self, spaces: Sequence[Space], images: Sequence[Image]) -> tuple[Tensor, ...]:
        """Of each space: ``(n, D)`` or ``(n, V, D)``, or ``(n, E)`` of unit norm for ``"uni"``."""
        ...

    def encode_texts_in(self, spaces: Sequence[Space], texts: Sequence[str]) -> tuple[Tensor, ...]:
        """Of each space: ``(n, D)``, or ``(n, E)`` of unit norm for ``"uni"``."""
        ...

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words of a text that tell the model nothing, in order."""
        ...


class PhotoScorer(Protocol):
    """The part of :class:`~crossalign.search.rerank.PhotoReranker` that search uses."""

    def scores(self, text: str, photos: Sequence[Path], progress: bool = False) -> list[float | Failure]:
        """How well a text fits each photo, or why that photo cannot be read."""
        ...


class TruncatedModel:
    """A model whose embeddings are cut to ``width``, on both sides alike; uni-modal ones stay whole.

    Its fingerprint is the model's.

    Raises:
        CrossAlignError: a width that the model's embeddings do not have, or an ensemble.
    """

    def __init__(self, model: EmbeddingModel, width: int) -> None:
        if model.embedding_parts is None:
            raise CrossAlignError(
                "--width cuts the embeddings of one model, this one is an ensemble; leave it out"
            )
        self.embedding_parts: int = model.embedding_parts
        check_width(width, model.dim, self.embedding_parts)
        self.model = model
        self.dim = width

    @property
    def fingerprint(self) -> str:
        """That of the model."""
        return self.model.fingerprint

    @property
    def uni_modal_width(self) -> int | None:
        """That of the model."""
        return self.model.uni_modal_width

    def require_embeddings(self, space: Space = "cross") -> None:
        """As the model does."""
        self.model.require_embeddings(space)

    def encode_images_in(self, spaces: Sequence[Space], images: Sequence[Image]) -> tuple[Tensor, ...]:
        """Of each space: ``(n, width)`` or ``(n, V, width)``, or ``(n, E)``."""
        return self._cut(spaces, self.model.encode_images_in(spaces, images))

    def encode_texts_in(self, spaces: Sequence[Space], texts: Sequence[str]) -> tuple[Tensor, ...]:
        """Of each space: ``(n, width)`` or ``(n, E)``."""
        return self._cut(spaces, self.model.encode_texts_in(spaces, texts))

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Those of the model."""
        return self.model.unknown_words(text)

    def _cut(self, spaces: Sequence[Space], found: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(
            truncate(values, self.dim, self.embedding_parts) if space == "cross" else values
            for space, values in zip(spaces, found, strict=True)
        )


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
        return TruncatedModel(load_model(model, device), width)
    if not isinstance(model, str | Path):
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


def embed_images(model: EmbeddingModel, images: Sequence[Image], *, uni: bool = False) -> Embedded:
    """Embed pictures, in both spaces at once where ``uni`` is asked for.

    Raises:
        CrossAlignError: an embedding is not finite, or the model has no uni-modal heads.
    """
    return _checked(model.encode_images_in(_spaces(uni), images), "image")


def embed_texts(model: EmbeddingModel, texts: Sequence[str], *, uni: bool = False) -> Embedded:
    """Embed texts, in both spaces at once where ``uni`` is asked for.

    Raises:
        CrossAlignError: an embedding is not finite, or the model has no uni-modal heads.
    """
    return _checked(model.encode_texts_in(_spaces(uni), texts), "text")


def _spaces(uni: bool) -> tuple[Space, ...]:
    return ("cross", "uni") if uni else ("cross",)


def _checked(found: Sequence[Tensor], what: str) -> Embedded:
    vectors, *others = (values.numpy().astype(np.float32, copy=False) for values in found)
    if vectors.ndim == 2:
        vectors = vectors[:, None]
    for given in (vectors, *others):
        if not np.isfinite(given).all():
            raise CrossAlignError(
                f"the model's {what} embeddings are not finite: its training has diverged; train it again"
            )
    return Embedded(vectors, *others)
