"""One opener of an index at a time."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from crossalign.errors import CrossAlignError
from crossalign.lock import FileLock

__all__ = ["IndexLock", "is_lock"]

LOCK_FILE = "lock"


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
            self._lock = FileLock(path, purpose)
        except OSError as error:
            raise CrossAlignError(
                f"{path}: cannot be opened ({error.strerror}); an index must be writable to be used"
            ) from None
        if not self._lock.acquire(wait):
            holder = self._lock.holder()
            self._lock.release()
            raise CrossAlignError(
                f"{folder}: in use by {holder}; one process at a time can open an index: "
                "wait until that one is done, or stop it"
            )

    def release(self) -> None:
        """Let others in; further calls do nothing."""
        self._lock.release()

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
