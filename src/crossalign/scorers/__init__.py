"""Interactive scorers: models that look at an image and a text together."""

from __future__ import annotations

from crossalign.scorers.base import Scorer
from crossalign.scorers.blocks import PackedUnits, score_blocks, score_pairs
from crossalign.scorers.cross_encoder import CrossEncoder
from crossalign.scorers.published import from_published
from crossalign.scorers.scan import SCANScorer
from crossalign.scorers.sgraf import SAFScorer, SGRAFScorer, SGRScorer

__all__ = [
    "CrossEncoder",
    "PackedUnits",
    "SAFScorer",
    "SCANScorer",
    "SGRAFScorer",
    "SGRScorer",
    "Scorer",
    "from_published",
    "score_blocks",
    "score_pairs",
]
