"""Memory and time of reading batches from a feature store.

Memory: a process of its own opens a synthetic store and reads random batches all over it; what counts is the
highest anonymous memory after a batch, above that of the same process before opening. Mapped pages of the
file belong to the system's cache and are not counted. Two sizes are measured: if memory grew with the
collection, the difference would be that of the files.

Time: one batch (gathering, padding, widening to float32) against one plain copy of as many stored bytes out
of the same map, with all pages in memory. A batch of float16 features writes twice the bytes that it reads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from _common import interleaved, machine, ratio, write_result
from crossalign.data.features import FeatureStore, FeatureWriter

DIM, MOST_UNITS = 1024, 17


def write_store(folder: Path, count: int, dtype: str, *, ragged: bool) -> Path:
    """A store of random features: 17 units an id, or 5 to 29 (17 in the mean)."""
    random = np.random.default_rng(0)
    counts = random.integers(5, 30, count) if ragged else np.full(count, MOST_UNITS)
    pool = random.normal(size=(64, DIM)).astype(np.float32)
    with FeatureWriter(
        folder,
        ids=[f"COCO_val2014_{position:012d}.jpg" for position in range(count)],
        dim=DIM,
        units=None if ragged else MOST_UNITS,
        dtype=dtype,  # type: ignore[arg-type]
        manifest={"kind": "image", "source": "synthetic"},
        boxes=True,
    ) as writer:
        for begin in range(0, count, 256):
            part = counts[begin : begin + 256]
            writer.append(
                [pool[random.integers(0, 64, units)] for units in part],
                [np.zeros((units, 4), np.float32) for units in part],
            )
        writer.finish()
    return folder


def anonymous_bytes() -> int:
    """Memory of this process that is not a file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell the anonymous memory of a process")


def measure_memory(folder: Path, batch_size: int, batches: int) -> dict[str, int]:
    """Highest growth of this process while it reads batches by id from all over a store."""
    random = np.random.default_rng(1)
    warm = np.zeros((batch_size, MOST_UNITS, DIM), np.float32)
    before = anonymous_bytes()
    store = FeatureStore.open(folder)
    opened = anonymous_bytes()
    store.index(store.ids[:1])
    indexed = highest = anonymous_bytes()
    touched = 0
    for _ in range(batches):
        batch = store.batch(random.integers(0, len(store), batch_size))
        touched += int(batch.mask.sum()) * store.layout.unit_bytes
        highest = max(highest, anonymous_bytes())
    del warm
    return {
        "opening": opened - before,
        "ids": indexed - opened,
        "batches": highest - indexed,
        "bytes_read": touched,
        "file_bytes": (folder / "features.bin").stat().st_size,
    }


def memory(place: Path, sizes: list[int], batch_size: int, batches: int) -> dict[str, Any]:
    """Growth at each size, each in a fresh process, and its difference as a share of that of the files."""
    measured = {}
    for size in sizes:
        folder = write_store(place / f"memory-{size}", size, "float16", ragged=False)
        arguments = ["--child", str(folder), "--batch-size", str(batch_size), "--batches", str(batches)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, __file__, *arguments],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        measured[size] = json.loads(done.stdout)
        shutil.rmtree(folder)
    small, large = (measured[size] for size in sizes)
    more_bytes = large["file_bytes"] - small["file_bytes"]
    return {
        "ids": sizes,
        "growth_bytes": [small, large],
        "share_of_features_held": (large["opening"] + large["batches"] - small["opening"] - small["batches"])
        / more_bytes,
        "bytes_per_id_for_names": (large["ids"] - small["ids"]) / (sizes[1] - sizes[0]),
    }


def compare_with_copy(store: FeatureStore, batch_size: int, repeats: int) -> dict[str, Any]:
    """Time of a batch as a multiple of copying as many stored bytes once."""
    random = np.random.default_rng(2)
    positions = [random.integers(0, len(store), batch_size) for _ in range(repeats)]
    stored = np.memmap(store.folder / "features.bin", np.uint8, mode="r")
    target = np.empty(stored.size, np.uint8)
    np.copyto(target, stored)  # every page into memory
    size = int(np.mean([store.unit_counts(chosen).sum() for chosen in positions])) * store.layout.unit_bytes
    turn = itertools.cycle(positions)
    times = interleaved(
        {
            "batch": lambda: store.batch(next(turn)),
            "copy": lambda: np.copyto(target[:size], stored[:size]),
        },
        repeats,
    )
    return {
        "ratio": ratio(times, "batch", "copy"),
        "batch_s": times["batch"]["median_s"],
        "copy_s": times["copy"]["median_s"],
        "stored_bytes": size,
    }


def gathering(place: Path, count: int, batch_size: int, repeats: int) -> dict[str, Any]:
    """Both layouts in both precisions."""
    results = {}
    for dtype in ("float16", "float32"):
        for ragged in (False, True):
            name = f"{'ragged' if ragged else 'fixed'}_{dtype}"
            folder = write_store(place / name, count, dtype, ragged=ragged)
            results[name] = compare_with_copy(FeatureStore.open(folder), batch_size, repeats)
            shutil.rmtree(folder)
    return results


def main() -> None:
    """Measure and write ``results/feature_loading.json``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs=2, default=[2000, 40000], help="ids of the two stores")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=200, help="read while memory is watched")
    parser.add_argument("--repeats", type=int, default=40, help="timed batches")
    parser.add_argument("--smoke", action="store_true", help="small sizes, nothing is written")
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(measure_memory(options.child, options.batch_size, options.batches)))
        return
    if options.smoke:
        options.sizes, options.batches, options.repeats = [100, 500], 5, 3
    with tempfile.TemporaryDirectory() as place:
        payload = {
            "load_before": machine().get("load"),
            "batch_size": options.batch_size,
            "memory": memory(Path(place), options.sizes, options.batch_size, options.batches),
            "gathering": gathering(Path(place), options.sizes[0], options.batch_size, options.repeats),
        }
    if not options.smoke:
        print(f"written: {write_result('feature_loading', payload)}")
    print(json.dumps(payload["memory"], indent=2))
    for name, result in payload["gathering"].items():
        print(
            f"{name}: {result['ratio']['median']:.2f} times a plain copy ({result['batch_s'] * 1e3:.2f} ms)"
        )


if __name__ == "__main__":
    main()
