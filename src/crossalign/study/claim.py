"""A claim on one run of a study: whoever trains, measures or replaces its record holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossalign.errors import CrossAlignError
from crossalign.lock import FileLock

__all__ = ["claimed"]


@contextmanager
def claimed(runs: Path, key: str) -> Iterator[str | None]:
    """Hold a run; yields who else holds it, or None. A killed holder's claim is free again.

    Args:
        runs: folder of the run folders, which the commands that work side by side share.
        key: of the run.

    Raises:
        CrossAlignError: the folder cannot be written.
    """
    path = runs / f"{key}.lock"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, "crossalign study")
    except OSError as error:
        raise CrossAlignError(f"{path}: cannot be opened ({error.strerror}); choose another --runs") from None
    with lock:
        yield None if lock.acquire() else lock.holder()
