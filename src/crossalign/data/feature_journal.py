"""The growing files of an unfinished feature store, and what of them survives a killed process."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from crossalign.data.feature_layout import BOX_BYTES, BOXES, FEATURES, UNIT_LOG, Layout
from crossalign.errors import CrossAlignError

__all__ = ["FeatureJournal"]


class FeatureJournal:
    """Appends features and boxes to their files, and to a log how many units each id has.

    An id counts once it stands in the log, and it is logged only after its features are safe on the disk.
    What a killed process or a power cut leaves behind it is cut off when the files are opened again.

    Raises:
        CrossAlignError: another process is writing to the folder.
    """

    def __init__(self, folder: Path, layout: Layout, sync_seconds: float) -> None:
        self.folder = folder
        self.layout = layout
        self._sync_seconds = sync_seconds
        self._synced_at = time.monotonic()
        self._pending: list[int] = []
        self._logged = 0
        self._files: dict[str, BinaryIO] = {}
        for name in [FEATURES, UNIT_LOG, *([BOXES] if layout.boxes else [])]:
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)
            self._files[name] = os.fdopen(descriptor, "r+b")
        self._lock()
        self._recover()

    @property
    def count(self) -> int:
        """How many ids were appended."""
        return self._logged + len(self._pending)

    def append(self, rows: Sequence[npt.NDArray[Any]], boxes: Sequence[npt.NDArray[Any]]) -> None:
        """Append the features of some ids, in the stored type, and their boxes where the store has boxes."""
        for units in rows:
            self._files[FEATURES].write(units.data)
        for corners in boxes:
            self._files[BOXES].write(np.ascontiguousarray(corners, "<f4").data)
        for file in self._files.values():
            file.flush()  # a process forked from this one must not inherit bytes in a buffer
        self._pending += [len(units) for units in rows]
        if time.monotonic() - self._synced_at >= self._sync_seconds:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make everything appended so far safe."""
        log = self._files[UNIT_LOG]
        for file in self._files.values():
            os.fsync(file.fileno())
        log.write(np.asarray(self._pending, "<i4").data)
        log.flush()
        os.fsync(log.fileno())
        self._logged += len(self._pending)
        self._pending = []
        self._synced_at = time.monotonic()

    def unit_counts(self) -> npt.NDArray[np.int64]:
        """Units of every logged id."""
        return np.fromfile(self.folder / UNIT_LOG, "<i4").astype(np.int64)

    def truncate(self, count: int) -> None:
        """Keep the first ``count`` ids only."""
        self.checkpoint()
        self._cut(self.unit_counts()[:count])

    def close(self) -> None:
        """Make everything safe and let the files go; closing twice does nothing."""
        if self._files:
            self.checkpoint()
        for file in self._files.values():
            file.close()
        self._files = {}

    def _lock(self) -> None:
        try:
            # A record lock ends with its process, even a killed one; worker processes do not inherit it.
            fcntl.lockf(self._files[FEATURES], fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A writer that failed before its first row may just have removed what was opened here.
            if not os.path.samestat(
                os.fstat(self._files[FEATURES].fileno()), os.stat(self.folder / FEATURES)
            ):
                raise OSError
        except OSError:
            for file in self._files.values():
                file.close()
            raise CrossAlignError(
                f"{self.folder}: another process is writing to it; wait until it is done"
            ) from None

    def _recover(self) -> None:
        counts = self.unit_counts()[: self.layout.count]
        room = (self.folder / FEATURES).stat().st_size // self.layout.unit_bytes
        if self.layout.boxes:
            room = min(room, (self.folder / BOXES).stat().st_size // BOX_BYTES)
        self._cut(counts[: np.searchsorted(np.cumsum(counts), room, side="right")])

    def _cut(self, counts: npt.NDArray[np.int64]) -> None:
        units = int(counts.sum())
        sizes = {
            FEATURES: units * self.layout.unit_bytes,
            BOXES: units * BOX_BYTES,
            UNIT_LOG: len(counts) * 4,
        }
        for name, file in self._files.items():
            file.truncate(sizes[name])
            file.seek(sizes[name])
        self._logged = len(counts)
