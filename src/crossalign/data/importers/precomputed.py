"""Reading SCAN-style precomputed data: for every split an array of features and a file of captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crossalign.data.collection import CaptionRecord, ImageRecord
from crossalign.data.importers.precomputed_arrays import (
    BoxUnits,
    SplitArrays,
    open_arrays,
    scan_rows,
    with_box_units,
)
from crossalign.data.importers.precomputed_rows import ImageRows, match_rows
from crossalign.data.importers.source import (
    DUPLICATE_IMAGE,
    EMPTY_CAPTION,
    NOT_UTF8_CAPTION,
    Source,
    read_lines,
)
from crossalign.errors import CrossAlignError
from crossalign.files import file_digest

__all__ = ["FeatureRow", "Precomputed", "read_precomputed"]

DIFFERENT_ROWS = "images whose repeated feature rows differ"
NOT_FINITE = "images with features or boxes that are not finite"


@dataclass(frozen=True)
class FeatureRow:
    """Where the features of an image are: its split's arrays, its row in them, its place among the images."""

    arrays: SplitArrays
    row: int
    position: int


@dataclass(frozen=True)
class Precomputed:
    """A source together with the features of its images."""

    source: Source
    rows: dict[str, FeatureRow]


def read_precomputed(
    folder: str | Path,
    *,
    splits: Sequence[str] = (),
    captions_per_image: int = 5,
    boxes: bool = True,
    box_units: BoxUnits | None = None,
    progress: bool = False,
) -> Precomputed:
    """Captions of ``<split>_caps.txt`` and features of ``<split>_ims.npy`` ``(n, R, D)`` or ``(n, D)``.

    The row of an image may be repeated for every caption: the counts and a comparison of the rows tell.
    Optional files are ``<split>_ids.txt`` (an id for every image, row or caption), ``<split>_boxes.npy``
    ``(n, R, 4)`` with corners in pixels or relative, and ``<split>_img_sizes.npy`` ``(n, 2)``: width, height.

    Args:
        splits: which splits to read; every one that has captions where they are not given.
        captions_per_image: captions of an image where ``<split>_ids.txt`` does not tell.
        boxes: read boxes where there are some.
        box_units: of all boxes; their values tell where it is not given.

    Raises:
        CrossAlignError: files are missing or cannot be read, their counts do not fit together, or the units of
            boxes are unclear.
    """
    root = Path(folder)
    if captions_per_image < 1:
        raise CrossAlignError(f"--captions-per-image: {captions_per_image} is not at least 1")
    names = list(dict.fromkeys(splits)) or sorted(
        p.name.removesuffix("_caps.txt") for p in root.glob("*_caps.txt")
    )
    if not names:
        raise CrossAlignError(f"{root}: no files '<split>_caps.txt'; is this a folder of precomputed data?")
    parts = [open_arrays(root, name, boxes=boxes) for name in names]
    _check_equal_layout(root, parts)
    parts = with_box_units(parts, box_units)
    options = {"splits": names, "captions_per_image": captions_per_image, "boxes": boxes}
    if parts[0].boxes is not None:
        options["box_units"] = "pixels" if parts[0].in_pixels else "relative"
    source = Source(
        None, provenance={"format": "precomputed", "folder": str(root.resolve()), "options": options}
    )
    source.provenance["files"] = {
        str(path.resolve()): file_digest(path) for name in names for path in _text_files(root, name)
    }
    rows: dict[str, FeatureRow] = {}
    for arrays in parts:
        _read_split(source, rows, root, arrays, captions_per_image, progress=progress)
    return Precomputed(source, rows)


def _text_files(root: Path, split: str) -> list[Path]:
    return [path for path in (root / f"{split}_caps.txt", root / f"{split}_ids.txt") if path.is_file()]


def _check_equal_layout(root: Path, parts: Sequence[SplitArrays]) -> None:
    shapes = [str(part.features.shape[1:]) for part in parts]
    boxes = ["yes" if part.boxes is not None else "no" for part in parts]
    for what, values in (("regions and width", shapes), ("boxes", boxes)):
        if len(set(values)) > 1:
            found = ", ".join(f"{part.split}: {value}" for part, value in zip(parts, values, strict=True))
            hint = (
                "leave them out with --no-boxes" if what == "boxes" else "choose splits that agree (--splits)"
            )
            raise CrossAlignError(f"{root}: the splits differ in {what} ({found}); {hint}")


def _read_split(
    source: Source,
    rows: dict[str, FeatureRow],
    root: Path,
    arrays: SplitArrays,
    per_image: int,
    *,
    progress: bool,
) -> None:
    split = arrays.split
    caption_file = root / f"{split}_caps.txt"
    lines = [text if text is None else text.strip() for _, text in read_lines(caption_file)]
    count = len(arrays.features)
    while lines and lines[-1] == "" and len(lines) > count and len(lines) % count:
        lines.pop()  # blank lines at the end of the file are no captions
    ids = _read_ids(root / f"{split}_ids.txt")
    finite, repeats = scan_rows(arrays, progress=progress)
    images = match_rows(caption_file, count, len(lines), ids, per_image, repeats)
    arrays.check_boxes(len(images))
    named = Counter(image.id for image in images if image.id is not None)
    for position, image in enumerate(images):
        image_id = f"{split}:{position}" if image.id is None else image.id
        if named[image_id] > 1:
            source.add_problem(DUPLICATE_IMAGE, f"{image_id} ({split} row {image.rows.start})")
            continue
        if not all(repeats[row] for row in image.rows[1:]):
            source.add_problem(
                DIFFERENT_ROWS, f"{image_id} ({split} rows {image.rows.start}-{image.rows.stop - 1})"
            )
            continue
        if not finite[image.rows.start] or not arrays.boxes_finite(image.rows.start, position):
            source.add_problem(NOT_FINITE, f"{image_id} ({split} row {image.rows.start})")
            continue
        rows.setdefault(image_id, FeatureRow(arrays, image.rows.start, position))
        width, height = arrays.size(image.rows.start, position)
        source.images.append(ImageRecord(image_id, "", width, height))
        _add_captions(source, image, image_id, lines, caption_file.name, split)


def _add_captions(
    source: Source, image: ImageRows, image_id: str, lines: Sequence[str | None], file: str, split: str
) -> None:
    for number, line in enumerate(image.captions):
        text = lines[line]
        if text:
            source.captions.append(CaptionRecord(f"{image_id}#{number}", image_id, text, split))
        else:
            source.add_problem(NOT_UTF8_CAPTION if text is None else EMPTY_CAPTION, f"{file} line {line + 1}")


def _read_ids(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    ids = []
    for number, line in read_lines(path):
        if line is None or not line.strip():
            raise CrossAlignError(f"{path}: line {number} is empty or not UTF-8; every line must be an id")
        ids.append(line.strip())
    return ids
