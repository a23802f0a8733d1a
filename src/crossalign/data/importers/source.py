"""What a reader of a source format yields: images, captions, and everything that was wrong on the way."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossalign.data.collection import CaptionRecord, ImageRecord
from crossalign.errors import CrossAlignError

__all__ = [
    "IMAGE_SUFFIXES",
    "Problem",
    "Source",
    "as_id",
    "is_utf8",
    "read_document",
    "read_lines",
    "tidy_path",
]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")

# Kinds of problems, as the report names them.
BROKEN_IMAGE = "broken images"
CAPTIONLESS = "images without captions"
DUPLICATE_CAPTION = "duplicate caption ids"
DUPLICATE_IMAGE = "duplicate image ids"
EMPTY_CAPTION = "empty captions"
ESCAPING_PATH = "image paths outside the image folder"
MALFORMED = "malformed entries"
MISSING_IMAGE = "missing image files"
NOT_UTF8_CAPTION = "captions that are not UTF-8"
NOT_UTF8_NAME = "names that are not UTF-8"
SEVERAL_LABELS = "images with more than one label"
SEVERAL_SPLITS = "images in more than one split"
UNKNOWN_IMAGE = "captions for unknown images"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a source: its kind, and the name of the image, caption or line."""

    kind: str
    name: str


@dataclass
class Source:
    """Images and captions as a source has them, still unchecked.

    The size of an image is (0, 0) until its file was read. A caption's split is "" where the source has none.
    ``image_root`` is None where there are no photos. ``provenance`` says what was read, and how.
    """

    image_root: Path | None
    images: list[ImageRecord] = field(default_factory=list)
    captions: list[CaptionRecord] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def add_problem(self, kind: str, name: str) -> None:
        """Note one problem."""
        self.problems.append(Problem(kind, name))

    def add_captions(self, image_id: str, texts: Sequence[str], split: str, first: int = 0) -> None:
        """Add captions without ids of their own: they are called ``image#0``, ``image#1``, ..."""
        for number, text in enumerate(texts, first):
            self.captions.append(CaptionRecord(f"{image_id}#{number}", image_id, text.strip(), split))


def is_utf8(text: str) -> bool:
    """Whether a string can be written as UTF-8 (half a surrogate pair cannot)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def tidy_path(file: str) -> str:
    """A path without ``./`` and other detours; "" stays ""."""
    return posixpath.normpath(file) if file else ""


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; CrossAlignError when it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CrossAlignError(f"{path}: no such file") from None
    except OSError as error:
        raise CrossAlignError(f"{path}: cannot be read ({error.strerror})") from None


def read_document(path: Path) -> Any:
    """What a JSON file holds; bytes that are not UTF-8 become lone surrogates, which the checks report.

    Raises:
        CrossAlignError: the file is missing or not JSON.
    """
    text = read_bytes(path).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CrossAlignError(f"{path}: not valid JSON (line {error.lineno}: {error.msg})") from None
    except RecursionError:
        raise CrossAlignError(f"{path}: JSON nested too deeply; is this the right file?") from None


def read_lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """Number (from 1) and text of every line, None where its bytes are not UTF-8.

    Lines end with a line feed only: the other separators of Unicode may be part of a caption.
    """
    lines = read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            yield number, line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError:
            yield number, None


def as_id(value: object) -> str | None:
    """An id of the source as text; None for what cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return str(value) or None
