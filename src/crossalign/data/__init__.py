"""Data sets on disk: collections of images and captions, and their feature stores."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crossalign.data.collection import CaptionRecord, Collection, ImageRecord, Split

__all__ = [
    "CaptionRecord",
    "Collection",
    "FeatureBatch",
    "FeatureStore",
    "FeatureWriter",
    "ImageRecord",
    "Split",
]

if TYPE_CHECKING:
    from crossalign.data.features import FeatureBatch, FeatureStore, FeatureWriter


def __getattr__(name: str) -> Any:
    # Loaded on first use: feature stores need torch, importing a collection must not wait for it.
    if name in ("FeatureBatch", "FeatureStore", "FeatureWriter"):
        return getattr(import_module("crossalign.data.features"), name)
    raise AttributeError(f"module 'crossalign.data' has no attribute '{name}'")
