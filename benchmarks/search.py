"""Time of one search and its recall against exact search, beside a FAISS flat index.

Photos and queries are made up so that the graph has it as hard as with real models: photos lie in clusters
on a curved sheet of few dimensions, their norms differ, and queries come from another distribution than
photos, as texts do. A search is what a user waits for after the query is encoded: the 10 best photos with
file name, size and whether the file is still there. FAISS gives row numbers only; it compares with every row
and so is the oracle too.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from _common import interleaved, machine, ratio, write_result
from _index import asked, engine_of, fill
from crossalign.search.edge import EdgeStore

HITS = 10
LIMIT_MS, LIMIT_RECALL = 2.0, 0.99
LIMITED = 10_000
"""Photos that the limits are for."""
LATENT, CLUSTERS = 24, 100


def made_up(count: int, dim: int, views: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Photos ``(count, views, dim)`` and text-like queries ``(queries, dim)``."""
    random = np.random.default_rng(0)
    inner, outer = random.standard_normal((LATENT, 64)) / 3, random.standard_normal((64, dim)) / 8

    def on_sheet(latent: np.ndarray) -> np.ndarray:
        return np.tanh(latent @ inner) @ outer

    centres = 1.5 * random.standard_normal((CLUSTERS, LATENT))
    latent = centres[random.integers(0, CLUSTERS, count)] + 0.7 * random.standard_normal((count, LATENT))
    photos = np.repeat(on_sheet(latent)[:, None], views, axis=1)
    photos += (0.15 if views == 1 else 0.5) * random.standard_normal(photos.shape)
    photos /= np.linalg.norm(photos, axis=-1, keepdims=True)
    photos *= random.lognormal(0, 0.2, (count, 1, 1))
    gap = 0.6 * random.standard_normal(dim)
    asked = latent[random.integers(0, count, queries)] + 0.7 * random.standard_normal((queries, LATENT))
    texts = on_sheet(asked) + gap + 0.5 * random.standard_normal((queries, dim))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    return photos.astype(np.float32), texts.astype(np.float32)


def measure(place: Path, count: int, dim: int, views: int, queries: int) -> dict[str, Any]:
    """Recall and times of one size; every query is asked once of each form, in turn."""
    photos, texts = made_up(count, dim, views, queries)
    flat = faiss.IndexFlatIP(dim)
    flat.add(photos.reshape(-1, dim))
    rows = (HITS - 1) * views + 1

    def oracle(text: np.ndarray) -> list[int]:
        found = flat.search(text[None], rows)[1][0] // views
        return list(dict.fromkeys(found.tolist()))[:HITS]

    store = EdgeStore.create(place / f"{dim}-{views}", dim, views)
    building = fill(store, photos)
    engine = engine_of(store, place)

    def ours(text: np.ndarray, exact: bool) -> list[int]:
        return asked(engine, text, HITS, exact=exact)

    recall = {"approximate": 0, "exact": 0}
    for text in texts:
        truth = set(oracle(text))
        recall["approximate"] += len(truth & set(ours(text, False)))
        recall["exact"] += len(truth & set(ours(text, True)))

    def asking(answer: Callable[[np.ndarray], object]) -> Callable[[], object]:
        coming = iter(np.concatenate([texts[:5], texts]))
        return lambda: answer(next(coming))

    times = interleaved(
        {
            "approximate": asking(lambda text: ours(text, False)),
            "exact": asking(lambda text: ours(text, True)),
            "faiss flat": asking(oracle),
        },
        repeats=queries,
        warmup=5,
    )
    store.close()
    to_faiss = ratio(times, "approximate", "faiss flat")
    return {
        "photos": count,
        "dim": dim,
        "views": views,
        "queries": queries,
        "building": building,
        "recall_at_10": {name: value / (HITS * queries) for name, value in recall.items()},
        "milliseconds": {
            name: {
                f"p{percent}": 1e3 * float(np.percentile(values["all"], percent)) for percent in (5, 50, 95)
            }
            for name, values in times.items()
        },
        "approximate_to_faiss_flat": {key: to_faiss[key] for key in ("median", "min", "max")},
    }


def main() -> None:
    """Measure, print a line a size, write ``results/search.json``; exit code 1 if a limit is missed.

    The limits are for 10,000 photos at all widths; anything else is written under another name and has none.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=int, default=LIMITED)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument(
        "--dim",
        type=int,
        help="this width alone, one vector a photo; default: three widths, and several vectors",
    )
    parser.add_argument("--smoke", action="store_true", help="small sizes, nothing is written")
    options = parser.parse_args()
    if options.smoke:
        options.photos, options.queries = 500, 10
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    before = machine().get("load")
    sizes = [(256, 1), (512, 1), (1024, 1), (256, 12)] if options.dim is None else [(options.dim, 1)]
    with tempfile.TemporaryDirectory() as place:
        cases = [measure(Path(place), options.photos, dim, views, options.queries) for dim, views in sizes]
    for case in cases:
        milliseconds = case["milliseconds"]
        print(
            f"{case['photos']} photos, {case['dim']} wide, {case['views']} views: "
            f"p50 {milliseconds['approximate']['p50']:.2f} ms, "
            f"recall@10 {case['recall_at_10']['approximate']:.4f}; "
            f"exact {milliseconds['exact']['p50']:.2f} ms; "
            f"FAISS flat {milliseconds['faiss flat']['p50']:.2f} ms"
        )
    missed = [
        case
        for case in cases
        if case["milliseconds"]["approximate"]["p50"] > LIMIT_MS
        or case["recall_at_10"]["approximate"] < LIMIT_RECALL
    ]
    name, limits = "search", None
    if (options.photos, options.dim) == (LIMITED, None):
        limits = {"p50_ms": LIMIT_MS, "recall_at_10": LIMIT_RECALL, "met": not missed}
    else:
        name += f"-{options.photos}" + ("" if options.dim is None else f"-{options.dim}")
    if not options.smoke:
        print(write_result(name, {"load_before": before, "limits": limits, "cases": cases}).name)
    raise SystemExit(1 if missed and (limits is not None or options.smoke) else 0)


if __name__ == "__main__":
    main()
