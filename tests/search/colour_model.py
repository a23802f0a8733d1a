"""A model that needs no training: photos and colour words are embedded as tiny pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crossalign.encoding import Space
from crossalign.errors import CrossAlignError

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 50),
    "blue": (30, 60, 220),
    "yellow": (230, 210, 40),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
}
SIDE = 4
DIM = 3 * SIDE * SIDE


class ColourModel:
    """Unit-norm embeddings of 4 x 4 thumbnails, times ``scale``; views are several brightnesses.

    ``encoded`` counts the photos embedded so far, without the picture of 64 x 64 that tells the shape.
    """

    def __init__(
        self, name: str = "colour", *, views: int | None = None, scale: float = 1.0, seconds: float = 0.0
    ) -> None:
        self.fingerprint = (name * 64)[:64]
        self.views = views
        self.scale = scale
        self.seconds = seconds
        self.encoded = 0
        self.dim, self.embedding_parts = DIM, 1
        self.before_batch: Callable[[], None] = lambda: None

    uni_modal_width: int | None = None

    def require_embeddings(self, space: Space = "cross") -> None:
        """It has those of both modalities."""
        if space == "uni" and self.uni_modal_width is None:
            raise CrossAlignError("no uni-modal heads")

    def encode_images_in(self, spaces: Sequence[Space], images: Sequence[Image.Image]) -> tuple[Tensor, ...]:
        return tuple(self._in(space, self.encode_images, images) for space in spaces)

    def encode_texts_in(self, spaces: Sequence[Space], texts: Sequence[str]) -> tuple[Tensor, ...]:
        return tuple(self._in(space, self.encode_texts, texts) for space in spaces)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return ()

    def _in(self, space: Space, encode: Callable[..., Tensor], items: Sequence[Any]) -> Tensor:
        self.require_embeddings(space)
        return encode(items) if space == "cross" else encode(items, space=space)

    def encode_images(
        self, images: Sequence[Image.Image], batch_size: int = 32, progress: bool = False
    ) -> Tensor:
        self.before_batch()
        time.sleep(self.seconds)
        self.encoded += sum(image.size != (64, 64) for image in images)
        rows = np.stack([thumbnail(image) for image in images])
        if self.views is None:
            return torch.from_numpy(unit(rows) * np.float32(self.scale))
        shifted = np.stack([unit(rows + 0.15 * view) for view in range(self.views)], axis=1)
        return torch.from_numpy(shifted * np.float32(self.scale))

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256, progress: bool = False) -> Tensor:
        return torch.from_numpy(np.stack([self._embed_text(text) for text in texts]))

    def _embed_text(self, text: str) -> np.ndarray:
        named = [COLOURS[word] for word in text.split() if word in COLOURS] or [(128, 128, 128)]
        return unit(thumbnail(Image.new("RGB", (8, 8), named[0]))[None])[0]


def thumbnail(image: Image.Image) -> np.ndarray:
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return (np.asarray(small, dtype=np.float32).reshape(-1) - 127.0) / 127.0


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)).astype(np.float32)


def paint(path: Path, colour: str, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    """Write a photo of one colour with a little noise, so that each seed gives other bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-25, 26, (size[1], size[0], 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path
