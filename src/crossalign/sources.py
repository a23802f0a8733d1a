"""A collection together with the FeatureStores that stand for its photos and captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crossalign.data.collection import Collection, Split
from crossalign.data.features import FeatureStore
from crossalign.data.loading import ImageSource, TextSource, find_store
from crossalign.encode import image_source, text_source
from crossalign.errors import CrossAlignError
from crossalign.model import RetrievalModel
from crossalign.towers.settings import RegionKind

__all__ = ["Sources"]


@dataclass(frozen=True)
class Sources:
    """A collection with the FeatureStores that stand for its photos and captions."""

    collection: Collection
    image_stores: tuple[FeatureStore, ...]
    text_store: FeatureStore | None

    @classmethod
    def open(
        cls, collection: str | Path, image_features: Sequence[str] = (), text_features: str | None = None
    ) -> Sources:
        """Open a collection and its stores, by path or by name; ids are checked when a split is asked for.

        Raises:
            CrossAlignError: no such collection or store, or a store of the other modality.
        """
        opened = Collection.load(collection)
        return cls(
            opened,
            tuple(_open(opened, name, "image") for name in image_features),
            _open(opened, text_features, "text") if text_features else None,
        )

    @property
    def regions(self) -> RegionKind:
        """Whether the regions are cells of a grid, boxes of a detector, or both; ``grid`` where no store tells."""
        kinds = [(store.manifest.get("regions") or {}).get("kind") for store in self.image_stores]
        return "both" if "both" in kinds else "boxes" if "boxes" in kinds else "grid"

    def split(
        self, model: RetrievalModel, name: str, *, flip: float = 0.0, crop: float = 1.0
    ) -> tuple[Split, ImageSource, TextSource]:
        """A split with the inputs of its images and captions.

        Args:
            flip: probability of mirroring a photo in training.
            crop: smallest share of each side that a random training crop keeps.

        Raises:
            CrossAlignError: no such split, or an id without a row in a store.
        """
        split = self.collection.split(name)
        images = image_source(model, self.collection, split, self.image_stores, flip=flip, crop=crop)
        return split, images, text_source(model, split, self.text_store)


def _open(collection: Collection, name: str, kind: str) -> FeatureStore:
    store = find_store(collection, name)
    if store.manifest["kind"] != kind:
        raise CrossAlignError(
            f"{store.folder}: holds {store.manifest['kind']} features; {kind}_features needs {kind} features"
        )
    return store
