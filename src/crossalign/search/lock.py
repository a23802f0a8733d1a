"""One opener at a time: a lock the operating system takes back even after a kill."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType

from crossalign.errors import CrossAlignError

__all__ = ["IndexLock", "is_lock"]

LOCK_FILE = "lock"
_PAUSE_SECONDS = 0.05


class IndexLock:
    """Holds the file ``lock`` of an index folder; the file tells who holds it and since when.

    Args:
        folder: the index folder, which exists.
        purpose: what the holder is doing, for the message to others.
        wait: seconds to wait for another holder.

    Raises:
        CrossAlignError: another process (or another opener in this one) still holds it after ``wait``.
    """

    def __init__(self, folder: str | Path, purpose: str, *, wait: float = 0.0) -> None:
        path = Path(folder) / LOCK_FILE
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise CrossAlignError(
                f"{path}: cannot be opened ({error.strerror}); an index must be writable to be used"
            ) from None
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = _holder(self._handle)
                    os.close(self._handle)
                    raise CrossAlignError(
                        f"{folder}: in use by {holder}; one process at a time can open an index: "
                        "wait until that one is done, or stop it"
                    ) from None
                time.sleep(_PAUSE_SECONDS)
        since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        self._write(json.dumps({"pid": os.getpid(), "purpose": purpose, "since": since}))

    def release(self) -> None:
        """Let others in; further calls do nothing."""
        if self._handle >= 0:
            self._write("")
            os.close(self._handle)
            self._handle = -1

    def _write(self, text: str) -> None:
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, text.encode(), 0)

    def __enter__(self) -> IndexLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_lock(path: Path) -> bool:
    """Whether a file is one that :class:`IndexLock` leaves: empty, or telling its holder."""
    try:
        text = path.read_bytes() if path.is_file() else b"none"
        told = json.loads(text) if text else {"purpose": ""}
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and "purpose" in told


def _holder(handle: int) -> str:
    """Who wrote the lock file, in words."""
    try:
        told = json.loads(os.pread(handle, 4096, 0))
        return f"process {told['pid']} ({told['purpose']}) since {told['since']}"
    except (ValueError, KeyError, TypeError):
        # The holder has the lock but has not told its name yet.
        return "another process"
