"""Teachers' vectors of a split, from the stores of `crossalign teach`: read batch by batch, never loaded whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch

from crossalign.data.batch import TeacherFeatures
from crossalign.data.collection import Collection, Split
from crossalign.data.features import FeatureStore
from crossalign.data.loading import find_store
from crossalign.errors import CrossAlignError

__all__ = ["TeacherSource"]

# Vectors that are looked at together.
_BLOCK = 4096


@dataclass(frozen=True)
class TeacherSource:
    """What the teachers say of the images and captions of a split, asked for by their positions in it.

    Attributes:
        images: store of one vector an image.
        texts: store of one vector a caption.
        image_positions, text_positions: where those of the split stand in the stores.
    """

    images: FeatureStore
    texts: FeatureStore
    image_positions: npt.NDArray[np.int64]
    text_positions: npt.NDArray[np.int64]

    @classmethod
    def open(cls, collection: Collection, split: Split, images: str, texts: str) -> Self:
        """Open both stores, by path or by name in the collection's ``features`` folder.

        Raises:
            CrossAlignError: there is no such store, it is not a teacher's of this kind, it lacks an id of the split, or
                a vector of the split is all zero.
        """
        seen, told = _open(collection, images, "image"), _open(collection, texts, "text")
        image_positions, text_positions = seen.index(split.image_ids), told.index(split.caption_ids)
        for key, store, positions in (("images", seen, image_positions), ("texts", told, text_positions)):
            _refuse_zeros(key, store, positions)
        return cls(seen, told, image_positions, text_positions)

    def __call__(self, images: npt.NDArray[np.integer], captions: npt.NDArray[np.integer]) -> TeacherFeatures:
        """The vectors of U images and B captions at these positions of the split."""
        return TeacherFeatures(
            image=torch.from_numpy(self.images.vectors(self.image_positions[images])),
            text=torch.from_numpy(self.texts.vectors(self.text_positions[captions])),
        )


def _open(collection: Collection, name: str, kind: Literal["image", "text"]) -> FeatureStore:
    key = f"data.teachers.{kind}s"
    command = (
        f"crossalign teach {collection.folder} --{kind}s MODEL --out {collection.folder / 'features' / name}"
    )
    store = find_store(collection, name, command)
    if store.manifest["kind"] != kind:
        raise CrossAlignError(
            f"{key}: {store.folder} holds {store.manifest['kind']} features, not {kind} features"
        )
    if store.manifest["units"] != 1:
        units = store.manifest["units"] or "a varying number of"
        raise CrossAlignError(
            f"{key}: {store.folder} holds {units} vectors an id, and a teacher has one; run: {command}-teacher"
        )
    return store


def _refuse_zeros(key: str, store: FeatureStore, positions: npt.NDArray[np.int64]) -> None:
    """Raise CrossAlignError where a vector is all zero: it has no cosine, so it would say nothing of any other."""
    # In the order of the file, so that it is read once from its beginning to its end.
    ordered = np.unique(positions)
    for start in range(0, len(ordered), _BLOCK):
        part = ordered[start : start + _BLOCK]
        zero = ~store.vectors(part).any(axis=1)
        if zero.any():
            raise CrossAlignError(
                f"data.teachers.{key}: {store.folder}: the vector of '{store.ids[part[zero.argmax()]]}' is all zero, "
                "which has no cosine; run 'crossalign teach' into another folder, with vectors that are not"
            )
