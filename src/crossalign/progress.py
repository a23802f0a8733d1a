"""One progress bar for everything that may take more than two seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["progress_bar", "tracked"]

T = TypeVar("T")


def progress_bar(enabled: bool = True) -> Progress:
    """A bar on standard error, so that standard output stays clean for results."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=Console(stderr=True),
        disable=not enabled,
    )


@contextmanager
def tracked(
    items: Iterable[T], description: str, *, total: int | None = None, enabled: bool = True
) -> Iterator[Iterator[T]]:
    """``items`` while a bar shows how many have gone through.

    A context rather than a generator: what fails while the items go through must end the bar there and then. A
    generator would end it when it is collected, in the middle of whatever is printed by then.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress_bar(enabled) as bar:
        task = bar.add_task(description, total=total, status="")

        def advancing() -> Iterator[T]:
            for item in items:
                yield item
                bar.advance(task)

        yield advancing()
