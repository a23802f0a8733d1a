"""A teacher's vectors of a whole collection into a feature store: computed once, one vector an image or caption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
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
_WORDS: dict[Kind, str] = {"image": "photos", "text": "captions"}


@dataclass(frozen=True)
class Teaching:
    """What was done with published features.

    Attributes:
        store: the finished store.
        missing: ids of the collection that the file does not have.
        missing_of: of each split, how many of its ids are missing, and how many it has.
        by_file_name: how many photos were found not by their id but by the name of their file.
    """

    store: FeatureStore
    missing: tuple[str, ...]
    missing_of: Mapping[str, tuple[int, int]]
    by_file_name: int


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
        CrossAlignError: a photo is missing or broken, its vector is not finite or all zero, or the folder holds other
            features.
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
        CrossAlignError: a vector is not finite or all zero, or the folder holds other features.
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

    The file need not have all of them: training asks for those of its split. A photo that is not there by its id is
    looked for by its file in the collection, or by the last part of that where only one photo has it.

    Raises:
        CrossAlignError: it has none of them, a vector is not finite or all zero (nothing is written then), or the
            folder holds other features.
    """
    own = _ids(collection, kind)
    names = _published_names(collection, kind, own, published.vectors)
    found = [name for name in own if name in names]
    if not found:
        told = f"its first id is '{next(iter(published.vectors))}'" if published.vectors else "it has no id"
        first = f", the collection's '{own[0]}'" if own else ""
        raise CrossAlignError(
            f"{published.path}: has no {kind} of {collection.folder} ({told}{first}); ids must be the collection's"
            + (", or the names of its files" if kind == "image" else "")
        )
    # Before the folder is made: what an unfit file leaves there would stand in the way of the mended one.
    published.check([names[name] for name in found], dtype)
    teacher = {"library": "published", "name": published.path.name, "weights_sha256": published.sha256}
    with (
        _writer(collection, folder, kind, published.dim, dtype, teacher, found) as writer,
        progress_bar(progress) as bar,
    ):
        task = bar.add_task(_WORDS[kind], total=len(found), completed=writer.done, status="")
        while writer.done < len(found):
            part = found[writer.done : writer.done + _CHUNK]
            writer.append([np.asarray(published.vectors[names[name]], np.float32)[None] for name in part])
            bar.advance(task, len(part))
        store = writer.finish()
    missing_of = {}
    for split in map(collection.split, collection.splits):
        asked = split.image_ids if kind == "image" else split.caption_ids
        missing_of[split.name] = (sum(name not in names for name in asked), len(asked))
    return Teaching(
        store,
        tuple(name for name in own if name not in names),
        missing_of,
        sum(name != of for name, of in names.items()),
    )


def _published_names(
    collection: Collection, kind: Kind, own: Sequence[str], known: Container[str]
) -> dict[str, str]:
    """What images or captions are called among the ``known`` names; without those that are not there."""
    names = {name: name for name in own if name in known}
    if kind == "image" and len(names) < len(own):
        # As files of detections name photos. A name that is the id or the whole path of a photo is of no other one.
        files = [image.file for image in collection.images if image.file]
        parts = Counter(PurePosixPath(file).name for file in files)
        ids = set(own)
        taken = ids.union(files)
        for image in collection.images:
            if image.id in names or not image.file:
                continue
            last = PurePosixPath(image.file).name
            if image.file in known and image.file not in ids:
                names[image.id] = image.file
            elif last in known and last not in taken and parts[last] == 1:
                names[image.id] = last
    return names


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
        zeros=False,
    )


def _rows(vectors: Tensor) -> Rows:
    """Each vector as the one unit of its item."""
    return list(vectors.float().cpu().numpy()[:, None])
