"""Data sets on disk: collections of images and captions, and their feature stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossalign.data.collection import CaptionRecord, Collection, ImageRecord, Split
from crossalign.lazy import loaded_on_first_use

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


# Feature stores need torch; importing a collection must not wait for it.
__getattr__ = loaded_on_first_use(
    __name__, dict.fromkeys(("FeatureBatch", "FeatureStore", "FeatureWriter"), "features")
)
