"""What every dual encoder consists of, whichever library it comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from crossalign.encoders.dual.settings import DualEncoderSettings
from crossalign.encoders.inputs import InputSettings

__all__ = ["DualEncoder", "DualTokenizer", "ImageHalf", "TextHalf"]


class ImageHalf(nn.Module, ABC):
    """The image network with its projection.

    Attributes:
        width: E, of embeddings and projected units.
        states_dim: W, of the patches' states.
        grid: rows and columns of patches.
    """

    width: int
    states_dim: int
    grid: tuple[int, int]

    @abstractmethod
    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``(B, E)``, not normalised, and states ``(B, N, W)`` of the N patches of ``(B, 3, H, W)``.

        Beside a cross-encoder, both are what that reads: a class token's state comes before those of the patches, and
        is given in the place of an embedding.
        """

    @abstractmethod
    def project(self, states: Tensor) -> Tensor:
        """What pooling and projection make of each of the states ``(B, N, W)`` alone: ``(B, N, E)``."""

    @abstractmethod
    def checkpoint_gradients(self) -> None:
        """Compute the blocks again in the backward pass instead of keeping what they computed."""


class TextHalf(nn.Module, ABC):
    """The text network with its projection.

    Attributes:
        width: E.
        states_dim: W, of the tokens' states.
    """

    width: int
    states_dim: int

    @abstractmethod
    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``(B, E)``, not normalised, and states ``(B, L, W)`` of token ids ``(B, L)`` with their mask.

        Beside a cross-encoder, the states are what that reads, and the first one is given in the place of an embedding.
        """

    @abstractmethod
    def project(self, states: Tensor) -> Tensor:
        """What the projection makes of each of the states ``(B, L, W)``: ``(B, L, E)``."""

    @abstractmethod
    def checkpoint_gradients(self) -> None:
        """Compute the blocks again in the backward pass instead of keeping what they computed."""


class DualTokenizer(Protocol):
    """The tokenizer that belongs to the weights."""

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids ``(B, L)`` and mask ``(B, L)`` of real ones, special tokens included."""
        ...

    def words(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Mask ``(B, L)`` of the tokens that are part of a word, not special; without words, all real ones."""
        ...

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span of each real token of one text; ``(0, 0)`` for special tokens."""
        ...

    def described(self) -> str:
        """What the tokenizer does, as text that is the same before and after use."""
        ...


@dataclass(frozen=True)
class DualEncoder:
    """Both halves and what belongs to them.

    Attributes:
        settings: with the checksum of the weights filled in.
        input: how a photo becomes pixels.
        described: what the networks compute, as text.
        matcher: the cross-encoder of a model that has one and was asked for it.
        save_parts: writes configuration and tokenizer, without weights, into a folder.
    """

    settings: DualEncoderSettings
    image: ImageHalf
    text: TextHalf
    tokenizer: DualTokenizer
    input: InputSettings
    described: str
    save_parts: Callable[[Path], None]
    matcher: nn.Module | None = None

    @property
    def width(self) -> int:
        """E, of the embeddings."""
        return self.image.width
