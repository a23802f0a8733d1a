"""Reading photos ahead of the model, in threads."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from crossalign.data.photos import open_photo
from crossalign.search.scan import NOT_A_FILE

__all__ = ["PIXELS_AT_ONCE", "Reading", "read_ahead", "read_photo"]

PIXELS_AT_ONCE = 128_000_000
"""Pixels of the decoded photos that a model is given at a time, at most: 400 MB."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_WORKERS = min(8, os.cpu_count() or 1)
# Some file systems keep times to two seconds: a file changed right after it was read may show the same.
_YOUNG_NANOSECONDS = 2_000_000_000


@dataclass(frozen=True)
class Reading:
    """One photo as it was read: digest and picture come from the same bytes.

    Attributes:
        mtime_ns: time of modification; 0 where the file was so young that this time cannot be trusted yet.
        image: RGB, the right way up; None where the pixels were not wanted or could not be read.
        problem: why the photo cannot be read; None for a good one.
    """

    file: str
    size: int = 0
    mtime_ns: int = 0
    sha256: str = ""
    image: Image.Image | None = None
    problem: str | None = None


def read_photo(folder: Path, file: str, wanted: Callable[[str, str], bool] | None = None) -> Reading:
    """Read ``file``, and decode it unless ``wanted(file, sha256)`` says that the pixels are not needed."""
    try:
        with open(folder / file, "rb", opener=_open_at_once) as handle:
            state = os.fstat(handle.fileno())
            if not stat.S_ISREG(state.st_mode):
                return Reading(file, problem=NOT_A_FILE)
            data = handle.read()
    except OSError as error:
        return Reading(file, problem=str(error.strerror))
    young = state.st_mtime_ns > time.time_ns() - _YOUNG_NANOSECONDS
    mtime_ns = 0 if young else state.st_mtime_ns
    digest = hashlib.sha256(data).hexdigest()
    if wanted is not None and not wanted(file, digest):
        return Reading(file, len(data), mtime_ns, digest)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            image = open_photo(opened)
    except UnidentifiedImageError:
        return Reading(file, problem="not a picture" if data else "empty file")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        return Reading(file, problem=" ".join(str(error).split()))
    return Reading(file, len(data), mtime_ns, digest, image)


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for the other end, should a pipe have taken the photo's place since it was found."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_ahead(
    folder: Path, files: Sequence[str], wanted: Callable[[str, str], bool] | None = None
) -> Iterator[Reading]:
    """:func:`read_photo` in order, a few ahead of the consumer: decoded photos are large, so only a few wait."""
    # All formats are made known before threads ask for them.
    Image.init()
    with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
        waiting: deque[Future[Reading]] = deque()
        try:
            for file in files:
                waiting.append(pool.submit(read_photo, folder, file, wanted))
                if len(waiting) > 2 * _WORKERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
