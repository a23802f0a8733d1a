"""From the photos or captions of a collection to a feature store: batched, resumable, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crossalign.data.collection import Collection
from crossalign.data.features import FeatureStore, FeatureWriter
from crossalign.data.photo_loader import PhotoBatch, photo_batches
from crossalign.data.regions import BoxFile, Regions
from crossalign.encoders.backbone import ImageBackbone
from crossalign.encoders.detector import Detector
from crossalign.encoders.hf import TextBackbone
from crossalign.errors import CrossAlignError
from crossalign.progress import progress_bar

__all__ = ["Extraction", "extract_images", "extract_texts"]

Rows = list[npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Extraction:
    """What was done.

    Attributes:
        store: the finished store.
        resumed: ids that an earlier run had already written.
        dropped_boxes: boxes of which nothing is visible, among those of the photos that this run looked at.
    """

    store: FeatureStore
    resumed: int
    dropped_boxes: int = 0


def extract_images(
    collection: Collection,
    folder: str | Path,
    backbone: ImageBackbone,
    *,
    boxes: BoxFile | Detector | None = None,
    dtype: Literal["float16", "float32"] = "float16",
    batch_size: int = 32,
    workers: int = 0,
    progress: bool = True,
) -> Extraction:
    """Write grid cells of every photo, or its whole map and the units of its boxes.

    The backbone is put in evaluation mode and runs where its parameters are. A run that was killed continues
    when it is called again.

    Raises:
        CrossAlignError: a photo is missing or broken, boxes do not belong to the collection, the backbone has
            random weights (nobody could repeat them), or the folder holds other features.
    """
    config = backbone.config
    if config.weights is None:
        raise CrossAlignError(
            f"{config.name}: features of random weights cannot be repeated; give it weights"
        )
    paths = [collection.image_path(image.id) for image in collection.images]
    regions = Regions(collection, boxes)
    grid = {"kind": "grid", "grid": config.grid, "global_cell": config.global_cell}
    writer = FeatureWriter(
        folder,
        ids=[image.id for image in collection.images],
        dim=backbone.dim,
        units=len(backbone.grid_boxes()) if boxes is None else None,
        dtype=dtype,
        manifest={
            "kind": "image",
            "backbone": config.model_dump(mode="json"),
            "regions": grid if boxes is None else {"kind": "boxes", "whole_image": True},
            "detector": regions.detector,
            "source": collection.name,
        },
        boxes=True,
    )
    with writer, torch.inference_mode():
        backbone.eval()
        start = _resume(writer, len(paths), batch_size)
        preparations = [config.input.resized, *regions.preparations]
        batches = photo_batches(paths, preparations, start=start, batch_size=batch_size, workers=workers)
        with progress_bar(progress) as bar:
            task = bar.add_task("photos", total=len(paths), completed=start, status="")
            for batch in batches:
                writer.append(*_encode_photos(backbone, batch, regions))
                bar.advance(task, len(batch.positions))
        return Extraction(writer.finish(), start, regions.dropped)


def extract_texts(
    collection: Collection,
    folder: str | Path,
    backbone: TextBackbone,
    *,
    dtype: Literal["float16", "float32"] = "float16",
    batch_size: int = 64,
    chunk: int = 2048,
    progress: bool = True,
) -> Extraction:
    """Write the token states of every caption, special tokens included, keyed by caption id.

    Captions are sorted by length within a chunk, so that little is spent on padding; the store keeps the
    order of the collection, split after split. A run that was killed continues when it is called again.

    Raises:
        CrossAlignError: the folder holds other features.
    """
    splits = [collection.split(name) for name in collection.splits]
    texts = [text for split in splits for text in split.texts]
    writer = FeatureWriter(
        folder,
        ids=[caption_id for split in splits for caption_id in split.caption_ids],
        dim=backbone.dim,
        units=None,
        dtype=dtype,
        manifest={
            "kind": "text",
            "backbone": backbone.config.model_dump(mode="json"),
            "regions": None,
            "detector": None,
            "source": collection.name,
        },
        boxes=False,
    )
    with writer, torch.inference_mode():
        backbone.eval()
        start = _resume(writer, len(texts), chunk)
        with progress_bar(progress) as bar:
            task = bar.add_task("captions", total=len(texts), completed=start, status="")
            for begin in range(start, len(texts), chunk):
                part = texts[begin : begin + chunk]
                states: Rows = [np.empty((0, backbone.dim), np.float32)] * len(part)
                for chosen, found in _encode_captions(backbone, part, batch_size):
                    for position, rows in zip(chosen, found, strict=True):
                        states[position] = rows
                    bar.advance(task, len(chosen))
                writer.append(states)
        return Extraction(writer.finish(), start)


def _encode_photos(backbone: ImageBackbone, batch: PhotoBatch, regions: Regions) -> tuple[Rows, Rows]:
    settings = backbone.config.input
    device = next(backbone.parameters()).device
    visible = [settings.visible(*size) for size in batch.sizes]
    boxes = regions.of(batch, visible)
    units, mask, placed = backbone(
        settings.normalised(batch.prepared[0].to(device)),
        None if boxes is None else [torch.from_numpy(rows).to(device) for rows in boxes],
        torch.tensor(visible, device=device),
    )
    return _rows(units, mask), _rows(placed, mask)


def _encode_captions(
    backbone: TextBackbone, texts: Sequence[str], batch_size: int
) -> Iterator[tuple[list[int], Rows]]:
    device = next(backbone.parameters()).device
    order = sorted(range(len(texts)), key=lambda position: len(texts[position]))
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        tokens, mask = backbone.tokenize([texts[position] for position in chosen])
        yield chosen, _rows(backbone(tokens.to(device), mask.to(device)), mask)


def _rows(units: Tensor, mask: Tensor) -> Rows:
    """The real units of each item."""
    values, kept = units.float().cpu().numpy(), mask.cpu().numpy()
    return [rows[real] for rows, real in zip(values, kept, strict=True)]


def _resume(writer: FeatureWriter, count: int, batch_size: int) -> int:
    """Where to go on: at the start of a batch, because a batch's composition moves the last digits."""
    if writer.done == count:
        return count
    start = writer.done - writer.done % batch_size
    writer.rewind(start)
    return start
