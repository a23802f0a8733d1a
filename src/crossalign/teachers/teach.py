"""A teacher's vectors of a whole collection into a feature store: computed once, one vector an image or caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from crossalign.data.collection import Collection
from crossalign.data.extraction import Extraction, Rows, write_photos, write_texts
from crossalign.data.features import FeatureStore, FeatureWriter
from crossalign.data.photo_loader import PhotoBatch
from crossalign.errors import CrossAlignError
from crossalign.progress import progress_bar
from crossalign.teachers.image import ImageTeacher
from crossalign.teachers.published import PublishedFeatures
from crossalign.teachers.text import TextTeacher

__all__ = ["Teaching", "teach_images", "teach_published", "teach_texts"]

Kind = Literal["image", "text"]
Precision = Literal["float16", "float32"]
_CHUNK = 1024


@dataclass(frozen=True)
class Teaching:
    """What was done with published features.

    Attributes:
        store: the finished store.
        missing: ids of the collection that the file does not have.
    """

    store: FeatureStore
    missing: tuple[str, ...]


def teach_images(
    collection: Collection,
    folder: str | Path,
    teacher: ImageTeacher,
    *,
    dtype: Precision = "float16",
    batch_size: int = 32,
    workers: int = 0,
    progress: bool = True,
) -> Extraction:
    """Write the teacher's vector of every photo. A run that was killed continues when it is called again.

    Raises:
        CrossAlignError: a photo is missing or broken, or the folder holds other features.
    """
    paths = [collection.image_path(image.id) for image in collection.images]
    writer = _writer(collection, folder, "image", teacher.dim, dtype, teacher.config.model_dump(mode="json"))
    device = next(teacher.parameters()).device
    settings = teacher.config.input

    def encode(batch: PhotoBatch) -> tuple[Rows, None]:
        return _rows(teacher(settings.normalised(batch.prepared[0].to(device)))), None

    with writer, torch.inference_mode():
        start = write_photos(
            writer,
            paths,
            [settings.resized],
            encode,
            batch_size=batch_size,
            workers=workers,
            progress=progress,
        )
        return Extraction(writer.finish(), start)


def teach_texts(
    collection: Collection,
    folder: str | Path,
    teacher: TextTeacher,
    *,
    dtype: Precision = "float16",
    batch_size: int = 64,
    chunk: int = 2048,
    progress: bool = True,
) -> Extraction:
    """Write the teacher's vector of every caption. A run that was killed continues when it is called again.

    Raises:
        CrossAlignError: the folder holds other features.
    """
    writer = _writer(collection, folder, "text", teacher.dim, dtype, teacher.config.model_dump(mode="json"))
    texts = [text for name in collection.splits for text in collection.split(name).texts]
    with writer:
        start = write_texts(
            writer,
            texts,
            lambda part: _rows(teacher(part)),
            batch_size=batch_size,
            chunk=chunk,
            progress=progress,
        )
        return Extraction(writer.finish(), start)


def teach_published(
    collection: Collection,
    folder: str | Path,
    kind: Kind,
    published: PublishedFeatures,
    *,
    dtype: Precision = "float16",
    progress: bool = True,
) -> Teaching:
    """Write published vectors of the images or captions of a collection; those of other ids are left out.

    The file need not have all of them: training asks for those of its split.

    Raises:
        CrossAlignError: it has none of them, a vector is not finite, or the folder holds other features.
    """
    own = _ids(collection, kind)
    found = [name for name in own if name in published.vectors]
    if not found:
        told = f"its first id is '{next(iter(published.vectors))}'" if published.vectors else "it has no id"
        first = f", the collection's '{own[0]}'" if own else ""
        raise CrossAlignError(
            f"{published.path}: has no {kind} of {collection.folder} ({told}{first}); ids must be the collection's"
        )
    teacher = {"library": "published", "name": published.path.name, "weights_sha256": published.sha256}
    with (
        _writer(collection, folder, kind, published.dim, dtype, teacher, found) as writer,
        progress_bar(progress) as bar,
    ):
        task = bar.add_task(f"{kind}s", total=len(found), completed=writer.done, status="")
        while writer.done < len(found):
            part = found[writer.done : writer.done + _CHUNK]
            writer.append([np.asarray(published.vectors[name], np.float32)[None] for name in part])
            bar.advance(task, len(part))
        store = writer.finish()
    kept = set(found)
    return Teaching(store, tuple(name for name in own if name not in kept))


def _ids(collection: Collection, kind: Kind) -> list[str]:
    if kind == "image":
        return [image.id for image in collection.images]
    return [name for split in collection.splits for name in collection.split(split).caption_ids]


def _writer(
    collection: Collection,
    folder: str | Path,
    kind: Kind,
    dim: int,
    dtype: Precision,
    teacher: dict[str, Any],
    ids: Sequence[str] | None = None,
) -> FeatureWriter:
    return FeatureWriter(
        folder,
        ids=_ids(collection, kind) if ids is None else ids,
        dim=dim,
        units=1,
        dtype=dtype,
        manifest={
            "kind": kind,
            "teacher": teacher,
            "regions": None,
            "detector": None,
            "source": collection.name,
        },
        boxes=False,
    )


def _rows(vectors: Tensor) -> Rows:
    """Each vector as the one unit of its item."""
    return list(vectors.float().cpu().numpy()[:, None])
