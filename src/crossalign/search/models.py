"""What search needs of a model: two methods and its fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL.Image import Image
from torch import Tensor

from crossalign.errors import CrossAlignError

__all__ = ["EmbeddingModel", "embed_images", "load_model", "model_name"]


class EmbeddingModel(Protocol):
    """The part of :class:`crossalign.RetrievalModel` that search uses."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever an embedding could."""
        ...

    def encode_images(self, images: Sequence[Image], batch_size: int = 32, progress: bool = False) -> Tensor:
        """``(n, D)`` or ``(n, V, D)``."""
        ...

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256, progress: bool = False) -> Tensor:
        """``(n, D)``."""
        ...


def model_name(model: EmbeddingModel | str | Path) -> str | None:
    """What to write down to find a model again: an absolute folder or a Hub name; None for an object."""
    if not isinstance(model, str | Path):
        return None
    return str(Path(model).resolve()) if Path(model).exists() else str(model)


def load_model(model: EmbeddingModel | str | Path, device: str = "auto") -> EmbeddingModel:
    """The model itself: loaded where a folder or a Hub name is given.

    Args:
        model: a model, its folder, or its Hub name.
        device: ``auto`` takes an accelerator where there is one; ignored for a model given as an object.
    """
    if not isinstance(model, str | Path):
        return model
    import torch

    from crossalign.model import RetrievalModel

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return RetrievalModel.from_pretrained(model, device=device)


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
