"""Boxes with the names of what is in them, read from a file of detections."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossalign.data.collection import ImageRecord
from crossalign.data.detections import chosen_boxes, detection_entries
from crossalign.data.labels import COCO_LABELS
from crossalign.errors import CrossAlignError

__all__ = ["LabelledBoxes", "read_label_names", "read_labelled_boxes"]

Box = tuple[float, float, float, float]
LabelledBoxes = dict[str, list[Box]]
"""By label, the relative xyxy boxes of one image."""


def read_labelled_boxes(
    path: str | Path,
    images: Sequence[ImageRecord],
    *,
    names: Sequence[str] = COCO_LABELS,
    min_score: float | None = None,
) -> dict[str, LabelledBoxes]:
    """By image id, the boxes of each label, clipped to the image.

    Beside ``boxes``, each line of the file (see :func:`read_detections`) has ``labels``, a name a box, or
    ``classes``, a number a box that counts in ``names``. Images without a line are left out.

    Args:
        min_score: boxes with a lower score are left out.

    Raises:
        CrossAlignError: no such file, a bad line, a class without a name, or no line for any of the images.
    """
    path = Path(path)
    found: dict[str, LabelledBoxes] = {}
    for position, entry, place in detection_entries(path, images):
        image = images[position]
        if image.width <= 0 or image.height <= 0:
            raise CrossAlignError(f"image '{image.id}' has no size in the collection; import it again")
        boxes, kept = chosen_boxes(entry, place, min_score, None)
        labels = _labels(entry, place, names)
        relative = boxes / np.array([image.width, image.height, image.width, image.height], np.float32)
        of_label: defaultdict[str, list[Box]] = defaultdict(list)
        for index, (left, top, right, bottom) in zip(kept, relative.clip(0, 1).tolist(), strict=True):
            if right > left and bottom > top:
                of_label[labels[index]].append((left, top, right, bottom))
        found[image.id] = dict(of_label)
    if not found:
        raise CrossAlignError(f"{path}: no line for any of the {len(images)} images; is it for other photos?")
    return found


def read_label_names(path: str | Path) -> tuple[str, ...]:
    """The names of a detector's classes, one a line, in the order of their numbers.

    Raises:
        CrossAlignError: no such file, not UTF-8, or an empty line among them.
    """
    path = Path(path)
    try:
        names = path.read_text(encoding="utf-8").rstrip().splitlines()
    except FileNotFoundError:
        raise CrossAlignError(f"{path}: no such file of labels") from None
    except UnicodeDecodeError:
        raise CrossAlignError(f"{path}: not UTF-8; save it as UTF-8") from None
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise CrossAlignError(f"{path} line {number}: no name; give one name a line")
    if not names:
        raise CrossAlignError(f"{path}: no names in it; give one name a line")
    return tuple(name.strip() for name in names)


def _labels(entry: dict[str, Any], place: str, names: Sequence[str]) -> list[str]:
    count = len(entry["boxes"])
    if "labels" in entry:
        labels = _list_of(entry["labels"], str, count)
        if labels is None or not all(label.strip() for label in labels):
            raise CrossAlignError(f"{place}: 'labels' must be one name a box")
        return [label.strip() for label in labels]
    classes = _list_of(entry.get("classes"), int, count)
    if classes is None:
        raise CrossAlignError(f"{place}: needs 'labels', one name a box, or 'classes', one number a box")
    for number in classes:
        if not 0 <= number < len(names):
            raise CrossAlignError(
                f"{place}: class {number} has no name among {len(names)}; give the detector's with --labels"
            )
    return [names[number] for number in classes]


def _list_of(values: Any, kind: type, count: int) -> list[Any] | None:
    """The values, if they are a list of so many of this kind."""
    if isinstance(values, list) and len(values) == count and all(isinstance(value, kind) for value in values):
        return values
    return None
