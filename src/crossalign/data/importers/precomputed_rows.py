"""Which feature rows and which caption lines of precomputed data belong to one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crossalign.errors import CrossAlignError

__all__ = ["ImageRows", "match_rows"]


@dataclass(frozen=True)
class ImageRows:
    """The feature rows and caption lines (from 0) of one image, and its id where the source has one."""

    id: str | None
    rows: range
    captions: range


def match_rows(
    path: Path,
    rows: int,
    captions: int,
    ids: Sequence[str] | None,
    per_image: int,
    repeats: npt.NDArray[np.bool_],
) -> list[ImageRows]:
    """Group rows and captions by image.

    ``rows == captions`` means that the row of an image is repeated for every caption (or that every image has
    one caption); ``rows * per_image == captions`` means that it stands once. Where rows are repeated they must
    stand in groups of ``per_image``: any other layout could be read in more than one way, and needs ids.

    Args:
        path: the caption file, for messages.
        ids: an id for every image, row or caption.
        repeats: ``(rows,)``, whether a row equals the row before it.

    Raises:
        CrossAlignError: the counts do not fit together, or repeated rows do not stand in such groups.
    """
    if rows == captions and ids is not None and len(ids) == rows and len(set(ids)) < rows:
        return _by_id(ids)
    if rows * per_image == captions and per_image > 1:
        images, row_width = rows, 1
    elif rows == captions and per_image > 1 and repeats.any():
        _check_groups(path, ids, per_image, repeats)
        images, row_width = rows // per_image, per_image
    elif rows == captions:
        images, row_width, per_image = rows, 1, 1
    else:
        raise CrossAlignError(
            f"{path}: {captions} captions for {rows} feature rows; there must be as many as rows, or "
            f"{per_image} times as many (--captions-per-image changes the number)"
        )
    names = _names_of_images(path, ids, images, rows, captions)
    return [
        ImageRows(
            names[i] if names is not None else None,
            range(i * row_width, (i + 1) * row_width),
            range(i * per_image, (i + 1) * per_image),
        )
        for i in range(images)
    ]


def _by_id(ids: Sequence[str]) -> list[ImageRows]:
    """Neighbours with the same id are one image, however many captions it has."""
    images = []
    start = 0
    for name, group in groupby(ids):
        stop = start + len(list(group))
        images.append(ImageRows(name, range(start, stop), range(start, stop)))
        start = stop
    return images


def _check_groups(
    path: Path, ids: Sequence[str] | None, per_image: int, repeats: npt.NDArray[np.bool_]
) -> None:
    """Refuse repeated rows that do not tell beyond doubt where the next image begins.

    Where most groups hold one row over and over, the others are damaged and reported as such.
    """
    rows = len(repeats)
    if rows % per_image == 0:
        whole = repeats.reshape(-1, per_image)[:, 1:].all(axis=1).mean() > 0.5
        # Equal rows on both sides of a border: one image with more captions, unless the ids count two.
        apart = not repeats[::per_image].any() or (ids is not None and len(ids) == rows // per_image)
        if whole and apart:
            return
    split = path.name.removesuffix("_caps.txt")
    starts = np.flatnonzero(~repeats)
    lengths = np.diff(np.append(starts, rows))
    low, high = int(lengths.min()), int(lengths.max())
    odd = int(np.argmax(lengths != per_image))
    first, last = int(starts[odd]), int(starts[odd] + lengths[odd]) - 1
    if low == high:
        found, mend = f"groups of {low}", f"give --captions-per-image {low}"
    else:
        found = f"groups of {low} to {high} (the first other one: rows {first}-{last})"
        mend = "give --captions-per-image if another number fits (1: every row is an image)"
    raise CrossAlignError(
        f"{path.with_name(f'{split}_ims.npy')}: equal rows stand in {found}, not of the {per_image} captions of "
        f"an image; {mend}, or name the image of every row in {split}_ids.txt"
    )


def _names_of_images(
    path: Path, ids: Sequence[str] | None, images: int, rows: int, captions: int
) -> Sequence[str] | None:
    if ids is None:
        return None
    if len(ids) not in (images, rows, captions):
        raise CrossAlignError(
            f"{path.parent}: {len(ids)} ids for {images} images and {captions} captions in {path.name}; "
            "there must be one for every image or every caption"
        )
    step = len(ids) // images if images else 1
    for position in range(0, len(ids), step):
        if len(set(ids[position : position + step])) > 1:
            raise CrossAlignError(
                f"{path.parent}: the ids of image {position // step} of {path.name} differ "
                f"({', '.join(ids[position : position + step])}); they must be the same for all its captions"
            )
    return ids[::step]
