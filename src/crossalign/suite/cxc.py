"""Crisscrossed Captions: do similarities of images, of captions, and between both rank pairs as people do?"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from crossalign.errors import CrossAlignError
from crossalign.suite.text_files import finite, open_text

__all__ = ["CXC_PARTS", "CxcPart", "caption_number", "image_number", "read_cxc"]

CXC_PARTS: dict[str, tuple[Literal["image", "caption"], Literal["image", "caption"]]] = {
    "sts": ("caption", "caption"),
    "sis": ("image", "image"),
    "sits": ("caption", "image"),
}
"""Semantic textual, image, and image-text similarity: what the two columns hold."""
_IMAGE = re.compile(r"(?:COCO_\w+_)?([0-9]+)(?:\.\w+)?")


@dataclass(frozen=True, eq=False)
class CxcPart:
    """Judged pairs of one kind.

    Attributes:
        name: ``sts``, ``sis`` or ``sits``.
        kinds: what the first and the second are.
        first: ``(p,)`` numbers that COCO gives: the queries.
        second: ``(p,)`` the items.
        judgement: ``(p,)`` 0 to 5.
    """

    name: str
    kinds: tuple[Literal["image", "caption"], Literal["image", "caption"]]
    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    judgement: npt.NDArray[np.float64]

    def wanted(self, kind: Literal["image", "caption"]) -> set[int]:
        """The numbers of the images, or of the captions, in any column."""
        columns = (self.first, self.second)
        return {
            int(item)
            for own, column in zip(self.kinds, columns, strict=True)
            if own == kind
            for item in column
        }


def read_cxc(folder: str | Path, split: str = "test") -> list[CxcPart]:
    """The parts that a folder has: ``sts_SPLIT.csv``, ``sis_SPLIT.csv`` and ``sits_SPLIT.csv``, plain or as ``.gz``.

    Raises:
        CrossAlignError: none is there, or a file is damaged.
    """
    folder = Path(folder)
    found = []
    for name in CXC_PARTS:
        file = f"{name}_{split}.csv"
        path = next((place for place in (folder / file, folder / f"{file}.gz") if place.is_file()), None)
        if path is not None:
            found.append(_read(path, name))
    if not found:
        raise CrossAlignError(
            f"{folder}: no sts_{split}.csv, sis_{split}.csv or sits_{split}.csv (or .gz); name the folder of CxC"
        )
    return found


def image_number(name: str) -> int | None:
    """COCO's number of an image: of ``391895``, or of ``COCO_val2014_000000391895.jpg``; None where it has none."""
    found = _IMAGE.fullmatch(name.rpartition("/")[2])
    return None if found is None else int(found[1])


def caption_number(name: str) -> int | None:
    """COCO's number of a caption: of ``770337``, or of ``COCO_val2014:sentid:770337``; None where it has none."""
    digits = name.rpartition(":")[2]
    return int(digits) if digits.isascii() and digits.isdecimal() else None


def _read(path: Path, name: str) -> CxcPart:
    kinds = CXC_PARTS[name]
    numbers = {"image": image_number, "caption": caption_number}
    first, second, judgement = [], [], []
    try:
        with open_text(path) as file:
            reader = csv.reader(file)
            next(reader, None)
            for row in reader:
                items = [numbers[kind](text) for kind, text in zip(kinds, row, strict=False)]
                if len(row) < 3 or None in items:
                    raise CrossAlignError(
                        f"{path}: line {reader.line_num} names no pair of COCO; put the file back"
                    )
                value = finite(row[2])
                if value is None:
                    raise CrossAlignError(
                        f"{path}: line {reader.line_num}: '{row[2][:40]}' is no judgement; put the file back"
                    )
                first.append(items[0])
                second.append(items[1])
                judgement.append(value)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise CrossAlignError(f"{path}: cannot be read ({reason}); put the file back") from None
    if not first:
        raise CrossAlignError(f"{path}: empty; put the file back")
    return CxcPart(name, kinds, np.array(first, np.int64), np.array(second, np.int64), np.array(judgement))
