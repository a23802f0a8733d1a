"""From an encoder's settings to the encoder."""

from __future__ import annotations

from torch import nn

from crossalign.encoders.camera import CAMERAImageEncoder, CAMERATextEncoder
from crossalign.encoders.pooled import PooledEncoder
from crossalign.encoders.vsrn import VSRNEncoder
from crossalign.encoders.words import GRUEncoder
from crossalign.towers.settings import (
    CAMERAImageSettings,
    CAMERATextSettings,
    GRUSettings,
    PooledSettings,
    VSRNSettings,
)

__all__ = ["build_region_encoder", "build_state_encoder", "build_word_encoder"]


def build_region_encoder(
    settings: PooledSettings | VSRNSettings | CAMERAImageSettings, input_dim: int, dim: int
) -> nn.Module:
    """The encoder of regions ``(B, N, input_dim)`` with their mask ``(B, N)``, CAMERA's with their boxes, too."""
    arguments = settings.model_dump(exclude={"kind"})
    if isinstance(settings, VSRNSettings):
        return VSRNEncoder(input_dim, dim, **arguments)
    if isinstance(settings, CAMERAImageSettings):
        return CAMERAImageEncoder(input_dim, dim, **arguments)
    return PooledEncoder(input_dim, dim, **arguments)


def build_state_encoder(settings: PooledSettings | CAMERATextSettings, input_dim: int, dim: int) -> nn.Module:
    """The encoder of token states ``(B, W, input_dim)`` with their mask ``(B, W)``."""
    # Padding is counted or not by the mask that the tower hands on.
    arguments = settings.model_dump(exclude={"kind", "count_padding"})
    if isinstance(settings, CAMERATextSettings):
        return CAMERATextEncoder(input_dim, dim, **arguments)
    return PooledEncoder(input_dim, dim, **arguments)


def build_word_encoder(settings: GRUSettings, vocabulary: int, dim: int) -> nn.Module:
    """The encoder of token ids ``(B, W)`` with their mask ``(B, W)``."""
    arguments = settings.model_dump(exclude={"kind", "min_count", "max_length", "splitting", "borders"})
    return GRUEncoder(vocabulary, dim, **arguments)
