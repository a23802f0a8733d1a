"""What benchmarks share: interleaved timing, ratios with their spread, result files with their origin."""

from __future__ import annotations

import argparse
import datetime
import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from crossalign.files import write_json
from crossalign.provenance import git, machine, shown_command

__all__ = [
    "RESULTS",
    "add_timing_options",
    "chosen_clock",
    "interleaved",
    "limits",
    "machine",
    "peak_above",
    "ratio",
    "write_result",
]

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def add_timing_options(parser: argparse.ArgumentParser) -> None:
    """``--threads``, ``--small`` and ``--busy``, of benchmarks that can also measure beside other work."""
    parser.add_argument("--threads", type=int, default=2, help="threads of the computation")
    parser.add_argument("--small", action="store_true", help="a tiny size that shows only that it runs")
    parser.add_argument(
        "--busy",
        action="store_true",
        help="for a machine with other work: CPU time of one thread, not wall time",
    )


def chosen_clock(arguments: argparse.Namespace) -> Callable[[], float]:
    """Set the threads that were asked for; returns the clock to measure with."""
    torch.set_num_threads(1 if arguments.busy else arguments.threads)
    return time.process_time if arguments.busy else time.perf_counter


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, Any]]:
    """Time functions in turn, so that a change of the machine's load meets all of them alike.

    With ``time.process_time`` as clock and one thread, other processes hardly count.

    Returns:
        For each name ``median_s``, ``min_s``, ``max_s`` and ``all``: seconds a call, in measured order.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(warmup):
        for function in functions.values():
            function()
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, function in functions.items():
                _wait()
                begin = clock()
                function()
                _wait()
                times[name].append(clock() - begin)
    finally:
        if enabled:
            gc.enable()
    return {
        name: {
            "median_s": statistics.median(values),
            "min_s": min(values),
            "max_s": max(values),
            "all": values,
        }
        for name, values in times.items()
    }


def ratio(times: Mapping[str, Mapping[str, Any]], name: str, base: str) -> dict[str, Any]:
    """How many times longer ``name`` takes than ``base``: the ratio in each repeat, its median and spread."""
    quotients = [own / other for own, other in zip(times[name]["all"], times[base]["all"], strict=True)]
    return {
        "of": name,
        "to": base,
        "median": statistics.median(quotients),
        "min": min(quotients),
        "max": max(quotients),
        "all": quotients,
    }


def peak_above(function: Callable[[], object]) -> float | None:
    """Megabytes of resident memory a call takes above those in use before it; none where nothing tells."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None

    def read(field: str) -> int:
        return next(
            int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field)
        )

    reset.write_text("5")
    before = read("VmRSS")
    function()
    return (read("VmHWM") - before) / 1024


def limits(figures: Mapping[str, tuple[float | None, float]]) -> dict[str, Any]:
    """Which figures are above what they may be at most, by name: figure and limit; a figure that is none is not judged.

    Returns:
        ``at_most`` and ``missed`` by name, and ``met``: whether none was missed.
    """
    missed = [name for name, (figure, limit) in figures.items() if figure is not None and figure > limit]
    return {
        "at_most": {name: limit for name, (_, limit) in figures.items()},
        "missed": missed,
        "met": not missed,
    }


def write_result(name: str, payload: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write ``benchmarks/results/<name>.json``: the payload with command line, commit, date and machine.

    ``commit`` and ``dirty`` are null outside a git repository; ``dirty`` ignores the result files themselves.
    """
    changes = git(
        REPOSITORY, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"
    )
    path = folder / f"{name}.json"
    write_json(
        path,
        {
            "name": name,
            "command": shown_command("python", sys.argv, REPOSITORY),
            "commit": git(REPOSITORY, "rev-parse", "HEAD"),
            "dirty": None if changes is None else bool(changes),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            **payload,
        },
    )
    return path
