"""The NumPy arrays of one split of precomputed data, read through the page cache and never as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from crossalign.errors import CrossAlignError
from crossalign.progress import progress_bar

__all__ = ["BoxUnits", "SplitArrays", "open_arrays", "scan_rows", "with_box_units"]

BoxUnits = Literal["pixels", "relative"]
BLOCK_BYTES = 32 * 2**20
# Rounding and detectors put the corners of relative boxes a little beyond the image.
SLACK = 1.01
# Pixels: boxes of a photo that all end before are hardly meant so.
FEWEST_PIXELS = 2.0


@dataclass(frozen=True)
class SplitArrays:
    """Features ``(rows, R, D)`` of a split; boxes ``(n, R, 4)``, sizes ``(n, 2)`` of its rows or images."""

    split: str
    path: Path
    features: npt.NDArray[np.floating]
    boxes: npt.NDArray[np.floating] | None
    sizes: npt.NDArray[np.number] | None
    in_pixels: bool = False  # boxes; else they are relative to the image

    def check_boxes(self, images: int) -> None:
        """Raise CrossAlignError when boxes or sizes fit neither rows nor images, or boxes have no scale."""
        for name, array in (("boxes", self.boxes), ("img_sizes", self.sizes)):
            if array is not None and len(array) not in (len(self.features), images):
                path = self.path.with_name(f"{self.split}_{name}.npy")
                raise CrossAlignError(
                    f"{path}: {len(array)} rows for {images} images; "
                    f"there must be one for every image or every row of {self.path.name}"
                )
        if self.in_pixels and self.sizes is None:
            raise CrossAlignError(
                f"{self.path.with_name(f'{self.split}_boxes.npy')}: boxes in pixels need the sizes of the "
                f"images in {self.split}_img_sizes.npy; add it, or leave boxes out with --no-boxes"
            )

    def size(self, row: int, position: int) -> tuple[int, int]:
        """Width and height in pixels, (0, 0) where they are unknown; ``position`` counts images."""
        if self.sizes is None:
            return 0, 0
        width, height = self.sizes[row if len(self.sizes) == len(self.features) else position]
        return int(width), int(height)

    def boxes_finite(self, row: int, position: int) -> bool:
        """Whether the boxes of an image can be used; true where there are none."""
        return self.boxes is None or bool(np.isfinite(self._pixel_boxes(row, position)).all())

    def relative_boxes(self, row: int, position: int) -> npt.NDArray[np.float32]:
        """Boxes ``(R, 4)`` of an image as ``x0 y0 x1 y1`` in [0, 1]."""
        boxes = self._pixel_boxes(row, position).astype(np.float32)
        if self.in_pixels:
            width, height = self.size(row, position)
            boxes /= np.asarray([width, height, width, height], np.float32)
        return np.clip(boxes, 0, 1)

    def _pixel_boxes(self, row: int, position: int) -> npt.NDArray[np.floating]:
        assert self.boxes is not None
        return self.boxes[row if len(self.boxes) == len(self.features) else position]


def open_arrays(root: Path, split: str, *, boxes: bool) -> SplitArrays:
    """Map the arrays of a split into memory.

    Raises:
        CrossAlignError: features are missing, an array is damaged, or it has another shape or type.
    """
    path = root / f"{split}_ims.npy"
    features = _open(path)
    if features.ndim == 2:
        features = features[:, None, :]
    if features.ndim != 3 or not len(features) or not np.issubdtype(features.dtype, np.floating):
        raise CrossAlignError(
            f"{path}: shape {features.shape} of {features.dtype}; features must be real numbers, "
            "(n, R, D) or (n, D)"
        )
    box_path, size_path = root / f"{split}_boxes.npy", root / f"{split}_img_sizes.npy"
    box_array = _open(box_path) if boxes and box_path.is_file() else None
    if box_array is not None and box_array.shape[1:] != (features.shape[1], 4):
        raise CrossAlignError(
            f"{box_path}: shape {box_array.shape}; boxes must be (n, {features.shape[1]}, 4)"
        )
    sizes = _open(size_path) if size_path.is_file() else None
    if sizes is not None and (sizes.ndim != 2 or sizes.shape[1] != 2 or not (sizes > 0).all()):
        raise CrossAlignError(f"{size_path}: sizes must be (n, 2): width and height of every image in pixels")
    return SplitArrays(split, path, features, box_array, sizes)


def with_box_units(parts: Sequence[SplitArrays], units: BoxUnits | None) -> list[SplitArrays]:
    """Splits that all have boxes, or none, and the units of those: as told, or as their values tell.

    Boxes are relative where no corner lies more than a hundredth beyond 1, and in pixels where every image has
    one beyond 2 (images whose boxes are all zero aside). One answer holds for all splits.

    Raises:
        CrossAlignError: the values tell neither, or units are given and there are no boxes.
    """
    if parts[0].boxes is None:
        if units is not None:
            raise CrossAlignError(
                f"{parts[0].path.parent}: --box-units {units} is given, but there are no boxes to import"
            )
        return list(parts)
    in_pixels = _pixels_by_value(parts) if units is None else units == "pixels"
    return [replace(part, in_pixels=in_pixels) for part in parts]


def _pixels_by_value(parts: Sequence[SplitArrays]) -> bool:
    """Whether boxes are in pixels, from the largest corner of every row."""
    corners = [_largest_corners(part.boxes) for part in parts if part.boxes is not None]
    used = np.concatenate(corners)
    used = used[used > 0]
    if (used <= SLACK).all():
        return False
    if (used > FEWEST_PIXELS).all():
        return True
    part, found = next(
        (part, found) for part, found in zip(parts, corners, strict=True) if (found > SLACK).any()
    )
    row = int(np.argmax(found > SLACK))
    raise CrossAlignError(
        f"{part.path.with_name(f'{part.split}_boxes.npy')}: row {row} reaches {found[row]:.4g}, but "
        f"{(used <= FEWEST_PIXELS).sum()} of {len(used)} rows of all splits stay below {FEWEST_PIXELS:g}, so the "
        "boxes are neither pixels nor relative for sure; say it with --box-units pixels or --box-units relative"
    )


def _largest_corners(boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The largest finite coordinate of every row ``(n,)``, at least 0."""
    largest = np.zeros(len(boxes))
    step = max(1, BLOCK_BYTES // max(1, boxes[:1].nbytes))
    for start in range(0, len(boxes), step):
        block = np.asarray(boxes[start : start + step], np.float64)
        finite = np.isfinite(block)
        largest[start : start + step] = np.max(block, axis=(1, 2), where=finite, initial=0)
    return largest


def scan_rows(
    arrays: SplitArrays, *, progress: bool = False
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Two flags ``(rows,)`` for every row: all its features are finite; it equals the row before it."""
    features = arrays.features
    finite = np.zeros(len(features), bool)
    repeats = np.zeros(len(features), bool)
    step = max(1, BLOCK_BYTES // max(1, features[0].nbytes))
    with progress_bar(progress) as bar:
        task = bar.add_task(f"checking {arrays.path.name}", total=len(features), status="")
        for start in range(0, len(features), step):
            # One row of overlap: the first row of a block is compared with the last of the block before.
            first = max(0, start - 1)
            block = np.asarray(features[first : start + step]).reshape(
                min(len(features), start + step) - first, -1
            )
            finite[first : start + step] = np.isfinite(block).all(axis=1)
            repeats[first + 1 : start + step] = (block[1:] == block[:-1]).all(axis=1)
            bar.update(task, completed=min(start + step, len(features)))
    return finite, repeats


def _open(path: Path) -> npt.NDArray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise CrossAlignError(
            f"{path}: no such file; features and captions of a split belong together"
        ) from None
    except (ValueError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise CrossAlignError(
            f"{path}: not a plain NumPy array ({reason}); save it again with numpy.save"
        ) from None
