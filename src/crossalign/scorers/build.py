"""From a scorer's settings to the scorer."""

from __future__ import annotations

from typing import Any

from crossalign.scorers.base import Scorer
from crossalign.scorers.scan import SCANScorer
from crossalign.scorers.settings import SAFSettings, SCANSettings, SGRAFSettings, SGRSettings
from crossalign.scorers.sgraf import SAFScorer, SGRAFScorer, SGRScorer

__all__ = ["build_scorer"]


def build_scorer(settings: SCANSettings | SGRSettings | SAFSettings | SGRAFSettings, dim: int) -> Scorer[Any]:
    """The scorer of units of width ``dim``."""
    arguments = settings.model_dump(exclude={"kind"})
    if isinstance(settings, SCANSettings):
        return SCANScorer(**arguments)
    if isinstance(settings, SGRSettings):
        return SGRScorer(dim, **arguments)
    if isinstance(settings, SAFSettings):
        return SAFScorer(dim, **arguments)
    return SGRAFScorer(dim, **arguments)
