"""From an encoder's settings to the encoder."""

from __future__ import annotations

from torch import nn

from crossalign.encoders.pooled import PooledEncoder
from crossalign.encoders.words import GRUEncoder
from crossalign.towers.settings import GRUSettings, PooledSettings

__all__ = ["build_unit_encoder", "build_word_encoder"]


def build_unit_encoder(settings: PooledSettings, input_dim: int, dim: int) -> nn.Module:
    """The encoder of units ``(B, N, input_dim)`` with their mask ``(B, N)``."""
    return PooledEncoder(
        input_dim,
        dim,
        projection=settings.projection,
        pooling=settings.pooling,
        hidden=settings.hidden,
        dropout=settings.dropout,
        normalize_input=settings.normalize_input,
    )


def build_word_encoder(settings: GRUSettings, vocabulary: int, dim: int) -> nn.Module:
    """The encoder of token ids ``(B, W)`` with their mask ``(B, W)``."""
    return GRUEncoder(
        vocabulary,
        dim,
        word_dim=settings.word_dim,
        pooling=settings.pooling,
        bidirectional=settings.bidirectional,
        dropout=settings.dropout,
    )
