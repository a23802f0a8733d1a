"""Runs updates that kill themselves at a given moment: ``python killed_updates.py PLACE MOMENT...``.

Run as a script, because a process with threads of the vector store must not fork: this one only ever forks.
A moment is ``kind:step:when:number``, where kind is ``first``, ``update`` or ``rebuild``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from colour_model import ColourModel, paint

import crossalign.search.update as update_module
from crossalign.search.edge import EdgeStore
from crossalign.search.index import update_index

OLD = 1_500_000_000_000_000_000
NAMES = [f"{group}/photo {number}.png" for group in ("a", "b") for number in range(5)]
COLOUR_NAMES = ("red", "green", "blue", "yellow", "white")


def paint_first(photos: Path) -> None:
    """The folder as it was when first indexed."""
    for seed, name in enumerate(NAMES):
        _paint(photos / name, seed)


def paint_second(photos: Path) -> None:
    """Two changed, two gone, two renamed, one touched, three added."""
    for seed, name in enumerate(NAMES[:2], start=20):
        _paint(photos / name, seed)
    for name in NAMES[2:4]:
        (photos / name).unlink()
    for name in NAMES[4:6]:
        (photos / name).rename(photos / f"renamed {Path(name).name}")
    os.utime(photos / NAMES[6], ns=(OLD + 99, OLD + 99))
    for seed in (30, 31, 32):
        _paint(photos / f"c/new {seed}.png", seed)


def _paint(path: Path, seed: int) -> None:
    os.utime(paint(path, COLOUR_NAMES[seed % 5], seed), ns=(OLD + seed, OLD + seed))


def model(kind: str) -> ColourModel:
    """The model of the run under test: a rebuild is for another one."""
    return ColourModel("other") if kind == "rebuild" else ColourModel()


def update(place: Path, kind: str, seconds: float = 0.0) -> Any:
    """The run under test, in small steps."""
    encoder = model(kind)
    encoder.seconds = seconds
    return update_index(encoder, place / "photos", place / "index", rebuild=kind == "rebuild", batch_size=2)


def _kill_at(step: str, when: str, number: int) -> None:
    """Arm one function: kill this process before or after its call of that number."""
    owner: Any = {"write_manifest": update_module, "replace": Path}.get(step, EdgeStore)
    original: Callable[..., Any] = getattr(owner, step)
    calls = 0

    def deadly(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **options)
        if calls == number and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, step, staticmethod(deadly) if step == "create" else deadly)


def _forked(work: Callable[[], object], kill_after: float | None = None) -> int:
    """The signal that ended a child doing ``work``; 0 if it came to its end."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def run(place: Path, moment: str) -> None:
    """Prepare a folder, run the update, die at the moment."""
    kind, step, when, number = moment.split(":")
    paint_first(place / "photos")
    if kind != "first":
        ended = _forked(lambda: update_index(ColourModel(), place / "photos", place / "index"))
        assert ended == 0, moment
        paint_second(place / "photos")

    def doomed() -> None:
        if step != "time":
            _kill_at(step, when, int(number))
        update(place, kind, seconds=0.25 if step == "time" else 0.0)

    ended = _forked(doomed, float(number) / 1000 if step == "time" else None)
    assert ended == signal.SIGKILL, f"{moment}: the moment never came"


if __name__ == "__main__":
    for position, argument in enumerate(sys.argv[2:]):
        run(Path(sys.argv[1]) / str(position), argument)
