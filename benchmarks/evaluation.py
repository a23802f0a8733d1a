"""Time and memory of exact ranks against the matrix product alone and the usual loop over sorted scores.

Embeddings are those of a model in use: noise on each caption's image, so that about a third of all captions
find theirs first. "untrained" are random embeddings, the slowest case: nowhere else do so many scores lie
near the own one. "product" is the blocked float32 matrix product of the same size, with the block of those
measured that suits it best. "usual" is the loop of published code: the whole matrix, an argsort for every
query and a search for its items.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from _common import interleaved, limits, machine, peak_above, ratio, write_result
from crossalign.evaluation import RankTable, bootstrap_intervals, retrieval_ranks
from crossalign.evaluation.results import RetrievalResult
from crossalign.evaluation.significance import compare

AT_MOST = {"ranks": 1.3, "memory_mb": 500}
BLOCKS = (1024, 2048, 4096)
CAPTIONS = 5


def embeddings(images: int, width: int, noise: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit rows: images, five captions each at some distance (none: anywhere), image of each caption."""
    random = np.random.default_rng(0)
    owner = np.repeat(np.arange(images), CAPTIONS)
    image = random.standard_normal((images, width), dtype=np.float32)
    text = random.standard_normal((len(owner), width), dtype=np.float32)
    if noise is not None:
        text *= noise
        text += image[owner]
    for values in (image, text):
        values /= np.linalg.norm(values, axis=1, keepdims=True)
    return image, text, owner


def product(image: np.ndarray, text: np.ndarray, block: int) -> None:
    """All scores, block by block, each block thrown away."""
    images, texts = torch.from_numpy(image), torch.from_numpy(text)
    memory = torch.empty(block * block)
    for rows in images.split(block):
        for columns in texts.split(block):
            torch.mm(rows, columns.T, out=memory[: len(rows) * len(columns)].view(len(rows), len(columns)))


def usual_ranks(image: np.ndarray, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort all items for each query and look its own up; ties fall as the sort happens to leave them."""
    scores = image @ text.T
    i2t, t2i = np.zeros(len(image), int), np.zeros(len(text), int)
    for index, row in enumerate(scores):
        order = np.argsort(row)[::-1]
        own = range(CAPTIONS * index, CAPTIONS * index + CAPTIONS)
        # The best of the own captions is never behind another own one: nothing need be left out.
        i2t[index] = 1 + min(np.where(order == caption)[0][0] for caption in own)
    for index, column in enumerate(scores.T):
        t2i[index] = 1 + np.where(np.argsort(column)[::-1] == index // CAPTIONS)[0][0]
    return i2t, t2i


def processor_ratio(ours: Callable[[], object], floor: Callable[[], object], repeats: int) -> dict[str, Any]:
    """Processor time of one function to another's, all threads, in turn: other work disturbs it less."""
    quotients = []
    for _ in range(repeats):
        spent = []
        for function in (floor, ours):
            begin = time.process_time()
            function()
            spent.append(time.process_time() - begin)
        quotients.append(spent[1] / spent[0])
    return {
        "median": statistics.median(quotients),
        "min": min(quotients),
        "max": max(quotients),
        "all": quotients,
    }


def statistics_times(images: int, repeats: int) -> dict[str, Any]:
    """Seconds of the bootstrap intervals of one run and of the comparison of two, from ranks alone."""
    random, owner = np.random.default_rng(0), np.repeat(np.arange(images), CAPTIONS)
    runs = []
    for chance in (0.10, 0.11):
        table = RankTable(random.geometric(chance, images), random.geometric(chance, len(owner)), owner)
        runs.append(RetrievalResult(table, {}, 0.95, 0, 0))
    return interleaved(
        {
            "intervals, 1000 resamples": lambda: bootstrap_intervals(runs[0].table),
            "comparison, 10000 resamples": lambda: compare(*runs),
        },
        repeats,
        warmup=1,
    )


def best_block(image: np.ndarray, text: np.ndarray) -> int:
    """The block for which the product alone is fastest."""
    trial = {str(block): lambda block=block: product(image, text, block) for block in BLOCKS}
    times = interleaved(trial, 3, warmup=1)
    return min(BLOCKS, key=lambda block: times[str(block)]["min_s"])


def measure(images: int, width: int, noise: float, repeats: int) -> dict[str, Any]:
    """All figures at one size."""
    image, text, owner = whole = embeddings(images, width, noise)
    memory = peak_above(lambda: retrieval_ranks(*whole))
    block = best_block(image, text)
    loose = embeddings(images, width, None)
    times = interleaved(
        {
            "product": lambda: product(image, text, block),
            "ranks": lambda: retrieval_ranks(*whole),
            "untrained": lambda: retrieval_ranks(*loose),
        },
        repeats,
    )
    few = images // 5
    fifth = image[:few], text[: few * CAPTIONS], owner[: few * CAPTIONS]
    for name, part, count in (("a fifth", fifth, 3), ("full", whole, 1)):
        times |= interleaved(
            {
                f"usual, {name}": lambda part=part: usual_ranks(*part[:2]),
                f"ranks, {name}": lambda part=part: retrieval_ranks(*part),
            },
            count,
            warmup=0,
        )
    ranks, usual = retrieval_ranks(*whole), usual_ranks(image, text)
    if not (np.array_equal(ranks.i2t, usual[0]) and np.array_equal(ranks.t2i, usual[1])):
        raise SystemExit("the ranks are not those of the usual loop")
    return {
        "sizes": {"images": images, "captions": len(owner), "width": width, "product_block": block},
        "recall_at_1": {"i2t": float((ranks.i2t == 1).mean()), "t2i": float((ranks.t2i == 1).mean())},
        "to_product": {
            "ranks": ratio(times, "ranks", "product") | {"at_most": AT_MOST["ranks"]},
            "untrained": ratio(times, "untrained", "product"),
            "ranks, processor time": processor_ratio(
                lambda: retrieval_ranks(*whole), lambda: product(image, text, block), repeats
            ),
        },
        "usual_to_ours": {
            name: ratio(times, f"usual, {name}", f"ranks, {name}") for name in ("a fifth", "full")
        },
        "memory_above_inputs_mb": {"ranks": memory, "at_most": AT_MOST["memory_mb"]},
        "statistics": statistics_times(images, 3),
        "times": times,
    }


def main() -> None:
    """Measure, print one line a figure, write ``results/evaluation.json``; exit code 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=11, help="measurements of each function")
    parser.add_argument("--threads", type=int, default=2, help="threads of the computation")
    parser.add_argument("--small", action="store_true", help="a tiny size that shows only that it runs")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    before = machine().get("load")
    images, width, noise = (100, 64, 2.5) if arguments.small else (5000, 1024, 10.0)
    result = measure(images, width, noise, arguments.repeats)
    for title in ("to_product", "usual_to_ours"):
        for name, value in result[title].items():
            print(f"{title:14} {name:21} {value['median']:7.2f}  ({value['min']:.2f} to {value['max']:.2f})")
    print(f"memory above the inputs: {result['memory_above_inputs_mb']['ranks']} MB")
    judged = limits(
        {
            "ranks": (result["to_product"]["ranks"]["median"], AT_MOST["ranks"]),
            "memory_mb": (result["memory_above_inputs_mb"]["ranks"], AT_MOST["memory_mb"]),
        }
    )
    # Of a tiny size the fixed costs are measured.
    if arguments.small:
        judged = {"met": None}
    name = "evaluation-small" if arguments.small else "evaluation"
    print(write_result(name, {"load_before": before, "limits": judged, **result}).name)
    raise SystemExit(1 if judged["met"] is False else 0)


if __name__ == "__main__":
    main()
