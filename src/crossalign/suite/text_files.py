"""Reading files of judgements: plain or gzipped text, and numbers in it."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, cast

__all__ = ["finite", "open_text"]


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file, UTF-8, unpacked where its name ends with ``.gz``; damage shows while reading."""
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            yield cast(TextIO, file)
    else:
        with path.open(encoding="utf-8", newline="") as file:
            yield file


def finite(text: str) -> float | None:
    """The number that a text says; None for anything else, NaN and infinity too."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
