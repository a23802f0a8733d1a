"""Data sets on disk: collections of images and captions, and their feature stores."""

from __future__ import annotations

from crossalign.data.collection import CaptionRecord, Collection, ImageRecord, Split

__all__ = ["CaptionRecord", "Collection", "ImageRecord", "Split"]
