"""One holder at a time: a lock that the operating system takes back even after a kill."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType

__all__ = ["FileLock"]

_PAUSE_SECONDS = 0.05


class FileLock:
    """An open lock file, which tells who holds it and since when; the file stays when it is let go.

    Args:
        path: the file; its folder exists.
        purpose: what the holder is doing, for the message to others.

    Raises:
        OSError: the file cannot be opened for writing.
    """

    def __init__(self, path: str | Path, purpose: str) -> None:
        self._purpose = purpose
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._held = False

    def acquire(self, wait: float = 0.0) -> bool:
        """Take the lock; false where another opener, here or elsewhere, holds it longer than ``wait`` seconds."""
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_PAUSE_SECONDS)
        self._held = True
        since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        self._write(json.dumps({"pid": os.getpid(), "purpose": self._purpose, "since": since}))
        return True

    def holder(self) -> str:
        """Who holds the lock, in words."""
        try:
            told = json.loads(os.pread(self._handle, 4096, 0))
            return f"process {told['pid']} ({told['purpose']}) since {told['since']}"
        except (ValueError, KeyError, TypeError):
            # The holder has the lock but has not told its name yet.
            return "another process"

    def release(self) -> None:
        """Let others in and close the file; further calls do nothing."""
        if self._handle >= 0:
            if self._held:
                self._write("")
                # Closing is not enough: a worker process that was forked meanwhile shares the lock.
                fcntl.flock(self._handle, fcntl.LOCK_UN)
            os.close(self._handle)
            self._handle, self._held = -1, False

    def _write(self, text: str) -> None:
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, text.encode(), 0)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
