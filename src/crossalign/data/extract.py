"""From the photos or captions of a collection to a feature store: batched, resumable, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from crossalign.data.collection import Collection
from crossalign.data.extraction import Extraction, Rows, write_photos, write_texts
from crossalign.data.features import FeatureWriter
from crossalign.data.photo_loader import PhotoBatch
from crossalign.data.regions import BoxFile, Regions
from crossalign.encoders.backbone import ImageBackbone
from crossalign.encoders.detector import Detector
from crossalign.encoders.hf import TextBackbone
from crossalign.errors import CrossAlignError

__all__ = ["Extraction", "extract_images", "extract_sentences", "extract_texts"]


def extract_images(
    collection: Collection,
    folder: str | Path,
    backbone: ImageBackbone,
    *,
    boxes: BoxFile | Detector | None = None,
    cells: bool = False,
    dtype: Literal["float16", "float32"] = "float16",
    batch_size: int = 32,
    workers: int = 0,
    progress: bool = True,
) -> Extraction:
    """Write grid cells of every photo, or its whole map and the units of its boxes, or cells and boxes.

    The backbone is put in evaluation mode and runs where its parameters are. A run that was killed continues
    when it is called again.

    Args:
        boxes: where boxes come from; None: grid cells alone.
        cells: put the grid's cells before the boxes, instead of the whole map alone.

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
    described: dict[str, Any] = {"kind": "boxes", "whole_image": True}
    if boxes is None or cells:
        kind = "grid" if boxes is None else "both"
        described = {"kind": kind, "grid": config.grid, "global_cell": config.global_cell}
    writer = FeatureWriter(
        folder,
        ids=[image.id for image in collection.images],
        dim=backbone.dim,
        units=len(backbone.grid_boxes()) if boxes is None else None,
        dtype=dtype,
        manifest={
            "kind": "image",
            "backbone": config.model_dump(mode="json"),
            "regions": described,
            "detector": regions.detector,
            "source": collection.name,
        },
        boxes=True,
    )
    with writer, torch.inference_mode():
        backbone.eval()
        start = write_photos(
            writer,
            paths,
            [config.input.resized, *regions.preparations],
            lambda batch: _encode_photos(backbone, batch, regions, cells),
            batch_size=batch_size,
            workers=workers,
            progress=progress,
        )
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

    The store keeps the order of the collection, split after split. A run that was killed continues when it is called
    again.

    Raises:
        CrossAlignError: the folder holds other features.
    """
    splits = [collection.split(name) for name in collection.splits]
    return _write_states(
        folder,
        [caption_id for split in splits for caption_id in split.caption_ids],
        [text for split in splits for text in split.texts],
        backbone,
        described=backbone.config.model_dump(mode="json"),
        source=collection.name,
        dtype=dtype,
        batch_size=batch_size,
        chunk=chunk,
        progress=progress,
    )


def extract_sentences(
    texts: Sequence[str],
    folder: str | Path,
    backbone: TextBackbone,
    *,
    dtype: Literal["float16", "float32"] = "float16",
    batch_size: int = 64,
    chunk: int = 2048,
    progress: bool = True,
) -> Extraction:
    """Write the token states of different sentences, special tokens included; each sentence is its own id.

    A run that was killed continues when it is called again.

    Raises:
        CrossAlignError: a sentence stands there twice, or the folder holds other features.
    """
    return _write_states(
        folder,
        texts,
        texts,
        backbone,
        # Not where the encoder lies: every run has a copy of its own, and all of them go on with one store.
        described=backbone.config.model_dump(mode="json", exclude={"name"}),
        source="sentences",
        dtype=dtype,
        batch_size=batch_size,
        chunk=chunk,
        progress=progress,
    )


def _write_states(
    folder: str | Path,
    ids: Sequence[str],
    texts: Sequence[str],
    backbone: TextBackbone,
    *,
    described: dict[str, Any],
    source: str,
    dtype: Literal["float16", "float32"],
    batch_size: int,
    chunk: int,
    progress: bool,
) -> Extraction:
    writer = FeatureWriter(
        folder,
        ids=ids,
        dim=backbone.dim,
        units=None,
        dtype=dtype,
        manifest={
            "kind": "text",
            "backbone": described,
            "regions": None,
            "detector": None,
            "source": source,
        },
        boxes=False,
    )
    with writer, torch.inference_mode():
        backbone.eval()
        start = write_texts(
            writer,
            texts,
            lambda part: _encode_captions(backbone, part),
            batch_size=batch_size,
            chunk=chunk,
            progress=progress,
        )
        return Extraction(writer.finish(), start)


def _encode_photos(
    backbone: ImageBackbone, batch: PhotoBatch, regions: Regions, cells: bool
) -> tuple[Rows, Rows]:
    settings = backbone.config.input
    device = next(backbone.parameters()).device
    visible = [settings.visible(*size) for size in batch.sizes]
    boxes = regions.of(batch, visible)
    units, mask, placed = backbone(
        settings.normalised(batch.prepared[0].to(device)),
        None if boxes is None else [torch.from_numpy(rows).to(device) for rows in boxes],
        torch.tensor(visible, device=device),
        cells=cells,
    )
    return _rows(units, mask), _rows(placed, mask)


def _encode_captions(backbone: TextBackbone, texts: Sequence[str]) -> Rows:
    device = next(backbone.parameters()).device
    tokens, mask = backbone.tokenize(texts)
    return _rows(backbone(tokens.to(device), mask.to(device)), mask)


def _rows(units: Tensor, mask: Tensor) -> Rows:
    """The real units of each item."""
    values, kept = units.float().cpu().numpy(), mask.cpu().numpy()
    return [rows[real] for rows, real in zip(values, kept, strict=True)]
