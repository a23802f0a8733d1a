"""Which boxes of a photo become regions: none (grid cells), those of a file, or those of a detector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from crossalign.data.collection import Collection
from crossalign.data.detections import read_detections, usable_boxes
from crossalign.data.photo_loader import PhotoBatch
from crossalign.encoders.detector import Detector
from crossalign.errors import CrossAlignError
from crossalign.files import file_digest

__all__ = ["BoxFile", "Regions"]

Boxes = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BoxFile:
    """A file of detections and which of its boxes are kept; see :func:`read_detections`."""

    path: Path
    min_score: float | None = None
    max_boxes: int | None = None


class Regions:
    """The boxes of a collection's photos.

    Attributes:
        detector: where the boxes come from, for the manifest of a feature store; None for grid cells.
        preparations: what must be made of each photo besides the network's input.
        dropped: boxes so far of which nothing is visible.
    """

    def __init__(self, collection: Collection, source: BoxFile | Detector | None) -> None:
        self._collection = collection
        self._source = source
        self._stored: list[Boxes] = []
        self.detector: dict[str, Any] | None = None
        self.preparations: list[Callable[[Image.Image], Tensor]] = []
        self.dropped = 0
        if isinstance(source, BoxFile):
            self._stored = read_detections(
                source.path, collection.images, min_score=source.min_score, max_boxes=source.max_boxes
            )
            self.detector = {
                "kind": "file",
                "file": source.path.name,
                "sha256": file_digest(source.path),
                "min_score": source.min_score,
                "max_boxes": source.max_boxes,
            }
        elif source is not None:
            self.detector = {"kind": "onnx"} | source.config.model_dump(mode="json")
            self.preparations = [source.letterbox]

    def of(self, batch: PhotoBatch, visible: list[tuple[float, float, float, float]]) -> list[Boxes] | None:
        """Boxes ``(n_i, 4)`` of each photo, relative to it and clipped to what is visible; None: cells.

        Raises:
            CrossAlignError: a photo is no longer of the size that the collection knows.
        """
        if self._source is None:
            return None
        if isinstance(self._source, Detector):
            found = [
                self._source.detect(letterboxed, *size).boxes
                for letterboxed, size in zip(batch.prepared[1], batch.sizes, strict=True)
            ]
        else:
            self._check_sizes(batch)
            found = [self._stored[position] for position in batch.positions]
        usable = [usable_boxes(boxes, part) for boxes, part in zip(found, visible, strict=True)]
        self.dropped += sum(map(len, found)) - sum(map(len, usable))
        return usable

    def _check_sizes(self, batch: PhotoBatch) -> None:
        for position, (width, height) in zip(batch.positions, batch.sizes, strict=True):
            image = self._collection.images[position]
            if (image.width, image.height) != (width, height):
                raise CrossAlignError(
                    f"{self._collection.image_path(image.id)}: is {width} x {height} pixels, the collection "
                    f"has {image.width} x {image.height}: its boxes would be wrong; import it again"
                )
