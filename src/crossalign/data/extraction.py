"""What every way from photos or captions to a feature store shares: batches, order, going on after a kill."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crossalign.data.features import FeatureStore, FeatureWriter
from crossalign.data.photo_loader import PhotoBatch, Preparation, photo_batches
from crossalign.errors import CrossAlignError
from crossalign.progress import progress_bar

__all__ = ["Extraction", "Rows", "resume", "write_photos", "write_texts"]

Rows = list[npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Extraction:
    """What was done.

    Attributes:
        store: the finished store.
        resumed: ids that an earlier run had already written.
        dropped_boxes: boxes of which nothing is visible, among those of the photos that this run looked at.
    """

    store: FeatureStore
    resumed: int
    dropped_boxes: int = 0


def write_photos(
    writer: FeatureWriter,
    paths: Sequence[Path],
    preparations: Sequence[Preparation],
    encode: Callable[[PhotoBatch], tuple[Rows, Rows | None]],
    *,
    batch_size: int,
    workers: int,
    progress: bool,
) -> int:
    """Write what ``encode`` makes of each batch of photos: features, and boxes where the store has them.

    Returns:
        How many photos an earlier run had already written.

    Raises:
        CrossAlignError: a photo is missing or broken.
    """
    _check_photos(paths[writer.done :])
    start = resume(writer, len(paths), batch_size)
    batches = photo_batches(paths, preparations, start=start, batch_size=batch_size, workers=workers)
    with progress_bar(progress) as bar:
        task = bar.add_task("photos", total=len(paths), completed=start, status="")
        for batch in batches:
            writer.append(*encode(batch))
            bar.advance(task, len(batch.positions))
    return start


def write_texts(
    writer: FeatureWriter,
    texts: Sequence[str],
    encode: Callable[[Sequence[str]], Rows],
    *,
    batch_size: int,
    chunk: int,
    progress: bool,
) -> int:
    """Write what ``encode`` makes of batches of texts.

    Texts are sorted by length within a chunk, so that little is spent on padding; the store keeps their order.

    Returns:
        How many texts an earlier run had already written.
    """
    start = resume(writer, len(texts), chunk)
    with progress_bar(progress) as bar:
        task = bar.add_task("captions", total=len(texts), completed=start, status="")
        for begin in range(start, len(texts), chunk):
            part = texts[begin : begin + chunk]
            found: Rows = [np.empty((0, 0), np.float32)] * len(part)
            for chosen in _by_length(part, batch_size):
                encoded = encode([part[position] for position in chosen])
                for position, rows in zip(chosen, encoded, strict=True):
                    found[position] = rows
                bar.advance(task, len(chosen))
            writer.append(found)
    return start


def resume(writer: FeatureWriter, count: int, batch_size: int) -> int:
    """Where to go on: at the start of a batch, because a batch's composition moves the last digits."""
    if writer.done == count:
        return count
    start = writer.done - writer.done % batch_size
    writer.rewind(start)
    return start


def _check_photos(paths: Sequence[Path]) -> None:
    """Refuse missing photos now, not hours later where their turn comes."""
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise CrossAlignError(
            f"{missing[0]}: no such photo ({len(missing)} missing); put them back, or say where the photos are now "
            "(--image-root)"
        )


def _by_length(texts: Sequence[str], batch_size: int) -> Iterator[list[int]]:
    order = sorted(range(len(texts)), key=lambda position: len(texts[position]))
    for begin in range(0, len(order), batch_size):
        yield order[begin : begin + batch_size]
