"""Encoded regions of photos, kept while there is room and the file is untouched."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from torch import Tensor

from crossalign.search.scan import FileState

__all__ = ["UnitCache"]


class UnitCache:
    """Units ``(N, D)`` of photos by path; what was asked for longest ago goes first. Threads may share it.

    Args:
        room: bytes of units that are kept at most; 0: none.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._used = 0
        self._entries: OrderedDict[Path, tuple[FileState, Tensor]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, photo: Path) -> Tensor | None:
        """The units of a photo; None where they are not here, or the file is gone or another one by now."""
        try:
            now = photo.stat()
        except OSError:
            return None
        with self._lock:
            state, units = self._entries.get(photo, (None, None))
            if state != FileState(now.st_size, now.st_mtime_ns):
                return None
            self._entries.move_to_end(photo)
            return units

    def put(self, photo: Path, state: FileState, units: Tensor) -> None:
        """Keep the units of a photo, which was in this state when it was read."""
        # A part of a batch would hold on to the whole of it.
        units = units.clone()
        with self._lock:
            _, old = self._entries.pop(photo, (None, None))
            self._entries[photo] = (state, units)
            self._used += units.nbytes - (0 if old is None else old.nbytes)
            while self._used > self._room:
                _, (_, oldest) = self._entries.popitem(last=False)
                self._used -= oldest.nbytes
