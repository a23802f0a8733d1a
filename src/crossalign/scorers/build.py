"""From a scorer's settings to the scorer."""

from __future__ import annotations

from typing import Any

from torch import nn

from crossalign.scorers.base import Scorer
from crossalign.scorers.cross_encoder import CrossEncoder
from crossalign.scorers.scan import SCANScorer
from crossalign.scorers.settings import (
    CrossEncoderSettings,
    SAFSettings,
    SCANSettings,
    SGRAFSettings,
    SGRSettings,
)
from crossalign.scorers.sgraf import SAFScorer, SGRAFScorer, SGRScorer

__all__ = ["build_scorer"]


def build_scorer(
    settings: SCANSettings | SGRSettings | SAFSettings | SGRAFSettings | CrossEncoderSettings,
    dim: int,
    matcher: nn.Module | None = None,
) -> Scorer[Any]:
    """The scorer of units of width ``dim``, or of the network ``matcher`` for a cross-encoder."""
    if isinstance(settings, CrossEncoderSettings):
        assert matcher is not None
        return CrossEncoder(matcher, settings.pairs_at_once)
    arguments = settings.model_dump(exclude={"kind"})
    if isinstance(settings, SCANSettings):
        return SCANScorer(**arguments)
    if isinstance(settings, SGRSettings):
        return SGRScorer(dim, **arguments)
    if isinstance(settings, SAFSettings):
        return SAFScorer(dim, **arguments)
    return SGRAFScorer(dim, **arguments)
