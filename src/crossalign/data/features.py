"""Feature stores: features of images or captions on disk, written once and read in batches."""

from __future__ import annotations

from crossalign.data.feature_store import FeatureBatch, FeatureStore
from crossalign.data.feature_writer import FeatureWriter

__all__ = ["FeatureBatch", "FeatureStore", "FeatureWriter"]
