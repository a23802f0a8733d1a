"""What training minimises, and its settings."""

from __future__ import annotations

from crossalign.objective.settings import ObjectiveSettings
from crossalign.objective.terms import Objective

__all__ = ["Objective", "ObjectiveSettings"]
