"""A model with uni-modal heads that needs no training: other numbers of the colour model's thumbnails."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from colour_model import DIM, ColourModel, unit
from PIL import Image
from torch import Tensor

from crossalign.encoding import Space

WIDTH = 7
_MAP = np.random.default_rng(0).standard_normal((DIM, WIDTH)).astype(np.float32)


class UniModel(ColourModel):
    """Cross-modal embeddings of any norm; uni-modal ones are their directions, mapped and of unit norm.

    ``heads`` may be switched off; the fingerprint stays, so that an index may be older than the heads.
    """

    def __init__(self, name: str = "uni", *, views: int | None = None, heads: bool = True) -> None:
        super().__init__(name, views=views)
        self.uni_modal_width = WIDTH if heads else None

    def encode_images(
        self,
        images: Sequence[Image.Image],
        batch_size: int = 32,
        progress: bool = False,
        space: Space = "cross",
    ) -> Tensor:
        vectors = super().encode_images(images, batch_size, progress)
        if space == "uni":
            return _alone(vectors if self.views is None else vectors.mean(dim=1))
        loudness = torch.tensor([1.0 + np.asarray(image).sum() % 13 for image in images])
        return vectors * loudness.view(-1, *[1] * (vectors.dim() - 1)).float()

    def encode_texts(
        self, texts: Sequence[str], batch_size: int = 256, progress: bool = False, space: Space = "cross"
    ) -> Tensor:
        vectors = super().encode_texts(texts, batch_size, progress)
        # Every letter matters a little: no two texts are alike.
        letters = np.stack([_letters(text) for text in texts])
        vectors = vectors + 0.05 * torch.from_numpy(letters)
        return _alone(vectors) if space == "uni" else vectors * 2.0


def _letters(text: str) -> np.ndarray:
    seed = int.from_bytes(text.encode()[-4:], "little") + 7 * len(text)
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


def _alone(vectors: Tensor) -> Tensor:
    return torch.from_numpy(unit(vectors.numpy() @ _MAP))
