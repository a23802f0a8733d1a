"""What evaluation, search and command line have in common about re-ranking."""

from __future__ import annotations

__all__ = ["RERANK_TOP"]

RERANK_TOP = 50
"""How many of each query's best a second model puts into order, unless told otherwise."""
