"""Boxes of objects that a detector found in photos, read from a file of JSON lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from crossalign.data.collection import ImageRecord
from crossalign.errors import CrossAlignError

__all__ = ["chosen_boxes", "detection_entries", "read_detections", "usable_boxes"]

Boxes = npt.NDArray[np.float32]


def read_detections(
    path: str | Path,
    images: Sequence[ImageRecord],
    *,
    min_score: float | None = None,
    max_boxes: int | None = None,
) -> list[Boxes]:
    """Boxes ``(n_i, 4)`` of each image as corners ``x0 y0 x1 y1`` relative to it; they may reach beyond it.

    Each line of the file is an object with ``filename`` (the file in the collection, or its last part where
    that is unambiguous) or ``id`` (the image id), ``boxes`` (corners in pixels of the upright photo) and
    optionally ``scores``. Boxes stay in the order of the file; ``max_boxes`` keeps the surest ones.

    Raises:
        CrossAlignError: no such file, a bad line, a photo with two lines or, worse, with none.
    """
    path = Path(path)
    found: dict[int, Boxes] = {}
    for position, entry, place in detection_entries(path, images):
        image = images[position]
        if image.width <= 0 or image.height <= 0:
            raise CrossAlignError(f"image '{image.id}' has no size in the collection; import it again")
        scale = np.array([image.width, image.height, image.width, image.height], np.float32)
        found[position] = chosen_boxes(entry, place, min_score, max_boxes)[0] / scale
    missing = [image.id for position, image in enumerate(images) if position not in found]
    if missing:
        raise CrossAlignError(
            f"{path}: no line for '{missing[0]}' ({len(missing)} of {len(images)} photos missing); "
            "a photo without objects needs a line with an empty list of boxes"
        )
    return [found[position] for position in range(len(images))]


def detection_entries(path: Path, images: Sequence[ImageRecord]) -> Iterator[tuple[int, dict[str, Any], str]]:
    """The lines of a file of detections that speak of these images: position, content, place in the file.

    Raises:
        CrossAlignError: no such file, a line without a name or that is no JSON object, two lines for one image.
    """
    positions = _positions_by_name(images)
    found: set[int] = set()
    for number, line in enumerate(_lines(path), start=1):
        place = f"{path} line {number}"
        entry = _parse(line, place)
        position = positions.get(_name(entry, place))
        if position is None:
            continue  # the file may speak of more photos than the collection has
        if position in found:
            raise CrossAlignError(f"{place}: second line for '{images[position].id}'; keep one of both")
        found.add(position)
        yield position, entry, place


def usable_boxes(boxes: Boxes, visible: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)) -> Boxes:
    """Boxes clipped to the visible part of a photo, without those of which nothing is left."""
    low, high = np.array(visible[:2] * 2, np.float32), np.array(visible[2:] * 2, np.float32)
    clipped = np.clip(boxes.reshape(-1, 4), low, high)
    return clipped[(clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])]


def _positions_by_name(images: Sequence[ImageRecord]) -> dict[tuple[str, str], int]:
    last_parts = Counter(PurePosixPath(image.file).name for image in images)
    positions: dict[tuple[str, str], int] = {}
    for position, image in enumerate(images):
        last_part = PurePosixPath(image.file).name
        if last_parts[last_part] == 1:
            positions["filename", last_part] = position
    for position, image in enumerate(images):
        positions["filename", image.file] = position
        positions["id", image.id] = position
    return positions


def _lines(path: Path) -> Iterable[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except FileNotFoundError:
        raise CrossAlignError(f"{path}: no such file of detections") from None
    except UnicodeDecodeError:
        raise CrossAlignError(f"{path}: not UTF-8; save it as UTF-8") from None


def _parse(line: str, place: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise CrossAlignError(f"{place}: not valid JSON ({error.msg})") from None
    if not isinstance(entry, dict):
        raise CrossAlignError(f"{place}: not an object with filename and boxes")
    return entry


def _name(entry: dict[str, Any], place: str) -> tuple[str, str]:
    for key in ("filename", "id"):
        if key in entry:
            return key, str(entry[key])
    raise CrossAlignError(f"{place}: neither 'filename' nor 'id'")


def chosen_boxes(
    entry: dict[str, Any], place: str, min_score: float | None, max_boxes: int | None
) -> tuple[Boxes, npt.NDArray[np.int64]]:
    """The boxes ``(n, 4)`` of a line that are sure enough, in its order, and which of all its boxes they are.

    Raises:
        CrossAlignError: its boxes, or the scores to choose by, are not of the right form.
    """
    try:
        boxes = np.asarray(entry["boxes"], np.float32).reshape(len(entry["boxes"]), 4)
    except (KeyError, TypeError, ValueError):
        raise CrossAlignError(f"{place}: 'boxes' must be a list of four numbers each") from None
    if not np.isfinite(boxes).all():
        raise CrossAlignError(f"{place}: a box is not finite")
    if min_score is None and max_boxes is None:
        return boxes, np.arange(len(boxes))
    try:
        scores = np.asarray(entry["scores"], np.float32).reshape(len(boxes))
    except (KeyError, TypeError, ValueError):
        raise CrossAlignError(
            f"{place}: choosing boxes by score needs 'scores', one number a box; leave the choice out"
        ) from None
    kept = np.flatnonzero(scores >= (-np.inf if min_score is None else min_score))
    best = np.sort(kept[np.argsort(-scores[kept], kind="stable")[:max_boxes]])
    return boxes[best], best
