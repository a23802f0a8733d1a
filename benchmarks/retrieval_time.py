"""Accuracy and time of retrieval: seconds a text query over the size of an image gallery, and R@sum.

On one machine, in one run, with the same threads: independent models by a matrix product, by the exact and by the
approximate index as ``crossalign search`` asks them; scorers over every image, whose regions were encoded and made
ready before; and scorers that re-rank the best 50 of the approximate index. A query is timed from its encoded form
(vector or words) to its 10 best images; what encoding it takes is measured on its own. Without runs, all have random
weights and there is no accuracy.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from _common import RESULTS, interleaved, machine, write_result
from _contenders import Contender, grown, grown_units, made_up_contenders, rsum, trained
from _index import asked, engine_of, fill
from _time_plot import draw_times
from crossalign.evaluation.gallery import EmbeddingGallery, ScoredGallery
from crossalign.evaluation.inputs import numpy_embeddings
from crossalign.model import RetrievalModel
from crossalign.scorers import Scorer
from crossalign.scorers.prepared import Prepared
from crossalign.search.edge import EdgeStore

HITS = 10
PART = 10_000
"""Images that are prepared at a time."""
FEWEST = 3
"""Calls with many queries that are timed."""


@dataclass
class Method:
    """One way to answer a query, and what was measured of it.

    Attributes:
        kind: ``product``, ``exact index``, ``approximate index``, ``scorer`` or ``re-rank``.
        model: label of the independent model; of the scorer where there is no other.
        scorer: label of the scorer, where there is one.
        shape: what time depends on beside the gallery's size, in words.
        rsum: accuracy on the test split.
        top: images that are re-ranked.
        points: by size of the gallery.
    """

    kind: str
    model: str
    scorer: str | None
    shape: str
    rsum: float | None
    top: int | None = None
    points: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What :func:`measure` is told: calls that are timed, seconds and gigabytes that are spent at most."""

    sizes: Sequence[int]
    queries: int
    repeats: int
    together: int
    top: int
    noise: float
    seconds: float
    gigabytes: float


def spread(times: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles, and what 5 and 95 of a hundred calls stay below, in seconds."""
    p5, p25, middle, p75, p95 = (float(np.percentile(times, percent)) for percent in (5, 25, 50, 75, 95))
    return {"median_s": middle, "p5_s": p5, "p25_s": p25, "p75_s": p75, "p95_s": p95, "calls": len(times)}


def rows(ready: Any, index: Tensor | slice) -> Any:
    """Some images of a prepared gallery."""
    return tuple(part.rows(index) for part in ready) if isinstance(ready, tuple) else ready.rows(index)


@torch.no_grad()
def made_ready(scorer: Scorer[Any], units: Tensor, mask: Tensor | None) -> Any:
    """A gallery prepared in parts, as what is computed on the way takes several times its memory."""
    parts = []
    for start in range(0, len(units), PART):
        some = None if mask is None else mask[start : start + PART]
        parts.append(scorer.prepare_gallery(scorer.prepare_images(units[start : start + PART], some)))
    if not isinstance(parts[0], tuple):
        return joined(parts, units)
    return tuple(joined(branch, units) for branch in zip(*parts, strict=True))


def joined(parts: Sequence[Prepared], units: Tensor) -> Prepared:
    """Prepared parts of ``units`` as one; the units themselves are not copied."""

    def of(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    masks = [
        torch.ones(part.units.shape[:2], dtype=torch.bool) if part.mask is None else part.mask
        for part in parts
    ]
    mask = None if all(part.mask is None for part in parts) else torch.cat(masks)
    return Prepared(units, mask, of("summary"), of("gram"), of("reciprocals"))


class Fast:
    """An independent model's gallery, of the largest size; smaller ones are its first images."""

    def __init__(self, contender: Contender, options: Options, chosen: np.ndarray) -> None:
        assert isinstance(contender.gallery, EmbeddingGallery)
        image = torch.as_tensor(numpy_embeddings(contender.gallery.image)).float()
        self.images = grown(image, max(options.sizes), options.noise)
        self.texts = torch.as_tensor(numpy_embeddings(contender.gallery.text)).float()[chosen]
        self.views = self.images.shape[1] if image.dim() == 3 else 1
        shape = f"{image.shape[-1]} wide" + (f", {self.views} views" if self.views > 1 else "")
        accuracy = rsum(contender)
        self.methods = {
            kind: Method(kind, contender.label, None, shape, accuracy)
            for kind in ("product", "exact index", "approximate index")
        }

    def product(self, size: int, queries: Tensor) -> Tensor:
        """The best images of queries ``(m, D)`` by all inner products."""
        return RetrievalModel.similarity(self.images[:size], queries).topk(min(HITS, size), dim=0).indices


class Slow:
    """A scorer's gallery, made ready once, and the queries' words."""

    def __init__(self, contender: Contender, options: Options, chosen: np.ndarray) -> None:
        assert isinstance(contender.gallery, ScoredGallery)
        self.scorer = contender.gallery.scorer.eval()
        images, texts = contender.gallery.images, contender.gallery.texts
        widest = int(images.lengths.max())
        item = 4 * widest * (images.units.shape[1] + widest + 1) * (2 if hasattr(self.scorer, "sgr") else 1)
        self.largest = max(
            (size for size in options.sizes if size * item <= options.gigabytes * 2**30), default=0
        )
        units, mask = grown_units(images, max(self.largest, len(images)), options.noise)
        self.ready = made_ready(self.scorer, units, mask)
        self.texts = [texts.padded(torch.tensor([index])) for index in chosen]
        self.together = texts.padded(torch.from_numpy(chosen[np.arange(options.together) % len(chosen)]))
        shape = f"{units.shape[1]} regions, {units.shape[2]} wide"
        self.method = Method("scorer", contender.label, contender.label, shape, rsum(contender))

    def best(self, ready: Any, words: tuple[Tensor, Tensor | None]) -> Tensor:
        """The best of some images by their scores with queries."""
        scores = self.scorer.score(ready, self.scorer.prepare_texts(*words))
        return scores.topk(min(HITS, len(scores)), dim=0).indices


def asking(answer: Callable[[Any], object], queries: Sequence[Any]) -> Callable[[], object]:
    """Each call answers the next query."""
    coming = cycle(queries)
    return lambda: answer(next(coming))


@torch.no_grad()
def measure_fast(
    fast: Fast, slows: Sequence[tuple[Slow, Method]], options: Options, size: int, place: Path
) -> None:
    """All that an index of an independent model is part of, its methods in turn, among ``size`` images."""
    store = EdgeStore.create(place / "store", fast.images.shape[-1], fast.views)
    building = fill(store, fast.images[:size].reshape(size, fast.views, -1).numpy(), 1024)
    engine = engine_of(store, place)
    vectors = fast.texts.numpy()
    found = [[asked(engine, text, HITS, exact=exact) for text in vectors] for exact in (False, True)]
    recall = np.mean([len({*some} & {*all_}) / len(all_) for some, all_ in zip(*found, strict=True)])

    def reranked(query: int, slow: Slow) -> object:
        best = asked(engine, vectors[query], options.top, exact=False)
        return slow.best(rows(slow.ready, torch.tensor(best)), slow.texts[query])

    methods = dict(fast.methods)
    numbers = range(len(vectors))
    calls = {
        "product": asking(lambda query: fast.product(size, fast.texts[query : query + 1]), numbers),
        "exact index": asking(lambda text: asked(engine, text, HITS, exact=True), list(vectors)),
        "approximate index": asking(lambda text: asked(engine, text, HITS, exact=False), list(vectors)),
    }
    for slow, method in slows:
        if size > slow.largest:
            method.left_out[size] = "its scorer's gallery is not that large"
            continue
        methods[f"by {method.scorer}"] = method
        calls[f"by {method.scorer}"] = asking(lambda query, slow=slow: reranked(query, slow), numbers)
    times = interleaved(calls, options.queries)
    many = fast.texts[torch.arange(options.together) % len(fast.texts)]
    together = interleaved({"many": lambda: fast.product(size, many)}, 5)["many"]
    store.close()
    for name, method in methods.items():
        method.points.append({"size": size, **spread(times[name]["all"])})
    methods["product"].points[-1]["together_s"] = together["median_s"] / options.together
    methods["approximate index"].points[-1] |= {"building": building, "recall_at_10": float(recall)}
    told = ", ".join(f"{name} {1e3 * of.points[-1]['median_s']:.2f} ms" for name, of in methods.items())
    print(f"{size:,} images, {methods['product'].model}: {told}", flush=True)


@torch.no_grad()
def measure_slow(slows: Sequence[Slow], options: Options) -> None:
    """Scorers over every image, each size in turn, the scorers in turn; what would take too long is left out."""
    for size in options.sizes:
        calls: dict[str, Callable[[], object]] = {}
        many: dict[str, Callable[[], object]] = {}
        here = {}
        for slow in slows:
            if size > slow.largest:
                slow.method.left_out[size] = f"its units would take more than {options.gigabytes:g} GB"
                continue
            last = slow.method.points[-1] if slow.method.points else None
            if last is not None and last["median_s"] * size / last["size"] > options.seconds:
                slow.method.left_out[size] = f"a query would take more than {options.seconds:g} s"
                continue
            ready = rows(slow.ready, slice(0, size))
            here[slow.method.model] = slow
            calls[slow.method.model] = asking(
                lambda words, slow=slow, ready=ready: slow.best(ready, words), slow.texts
            )
            many[slow.method.model] = lambda slow=slow, ready=ready: slow.best(ready, slow.together)
        times = interleaved(calls, options.repeats, warmup=1)
        short = {
            name: call
            for name, call in many.items()
            if times[name]["median_s"] * options.together <= 2 * options.seconds
        }
        together = interleaved(short, FEWEST, warmup=0)
        for name, slow in here.items():
            point = {"size": size, **spread(times[name]["all"])}
            if name in together:
                point["together_s"] = together[name]["median_s"] / options.together
            slow.method.points.append(point)
            print(f"{size:,} images, {name} over all: {1e3 * point['median_s']:.1f} ms", flush=True)


def measure_encoding(contenders: Sequence[Contender], chosen: np.ndarray, calls: int) -> dict[str, Any]:
    """What the words of a query go through before anything is searched, by model."""
    functions = {
        contender.label: asking(contender.encode, [contender.texts[index] for index in chosen])
        for contender in contenders
        if contender.encode is not None
    }
    return {name: spread(times["all"]) for name, times in interleaved(functions, calls).items()}


def measure(
    fasts: Sequence[Contender], slows: Sequence[Contender], options: Options
) -> tuple[list[Method], dict[str, Any]]:
    """All methods with their times, and the encoding of queries; the last of ``fasts`` is the one re-ranked."""
    first = [*fasts, *slows][0].gallery
    # Every so many-th caption: all lengths, all images.
    chosen = np.linspace(0, first.size[1] - 1, options.queries).round().astype(np.int64)
    encoding = measure_encoding([*fasts, *slows], chosen, options.queries)
    scorers = [Slow(contender, options, chosen) for contender in slows]
    measure_slow(scorers, options)
    methods: list[Method] = []
    for contender in fasts:
        again: list[tuple[Slow, Method]] = []
        fast = Fast(contender, options, chosen)
        if contender is fasts[-1]:
            again = [
                (
                    slow,
                    Method(
                        "re-rank",
                        contender.label,
                        slow.method.model,
                        f"{fast.methods['product'].shape}; {slow.method.shape}",
                        rsum(contender, other, options.top),
                        options.top,
                    ),
                )
                for slow, other in zip(scorers, slows, strict=True)
            ]
        for size in options.sizes:
            with tempfile.TemporaryDirectory() as place:
                measure_fast(fast, again, options, size, Path(place))
        methods += [*fast.methods.values(), *(method for _, method in again)]
    return [*methods, *(slow.method for slow in scorers)], encoding


def contenders(arguments: argparse.Namespace) -> Iterator[list[Contender]]:
    """Independent models, then scorers."""
    runs = [run for run in (arguments.fast, arguments.selfalign) if run is not None]
    if not runs and not arguments.scorer:
        small = arguments.small
        sizes = (30, 60, 5, 6, 16, 8) if small else (1000, 1000, 17, 18, 256, 128)
        yield from made_up_contenders(*sizes)
        return
    for names in (runs, arguments.scorer or []):
        yield [trained(name, arguments.collection) for name in names]


def main() -> None:
    """Measure, print as it goes, write the JSON and, beside it, the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fast", metavar="[LABEL=]RUN", help="a run of an independent model")
    parser.add_argument(
        "--selfalign", metavar="[LABEL=]RUN", help="one more, with SelfAlign; it is re-ranked"
    )
    parser.add_argument(
        "--scorer", metavar="[LABEL=]RUN", action="append", help="a run of a scorer; repeatable"
    )
    parser.add_argument("--collection", help="folder of the collection; default: each run's own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 3_000, 10_000, 30_000, 100_000])
    parser.add_argument("--queries", type=int, default=50, help="queries, each asked once of what is fast")
    parser.add_argument("--repeats", type=int, default=7, help="queries asked of scorers over every image")
    parser.add_argument("--together", type=int, default=32, help="queries of the measurement of many at once")
    parser.add_argument(
        "--noise", type=float, default=0.1, help="noise of repeated images, relative to norms"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="most that a scorer's query may take")
    parser.add_argument("--gigabytes", type=float, default=4.0, help="most that a scorer's gallery may take")
    parser.add_argument(
        "--out", type=Path, help="the JSON file; default: benchmarks/results/retrieval_time.json"
    )
    parser.add_argument("--small", action="store_true", help="a tiny size that shows only that it runs")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.sizes, arguments.queries, arguments.repeats, arguments.together = [20, 60], 6, FEWEST, 4
    torch.set_num_threads(arguments.threads)
    before = machine().get("load")
    fasts, slows = contenders(arguments)
    if not fasts:
        parser.error("give a run of an independent model, too (--fast or --selfalign)")
    images, texts = fasts[0].gallery.size
    sizes = sorted({*arguments.sizes, images} if fasts[0].split is not None else {*arguments.sizes})
    names = ("queries", "repeats", "together", "noise", "seconds", "gigabytes")
    options = Options(sizes, top=50, **{name: getattr(arguments, name) for name in names})
    methods, encoding = measure(fasts, slows, options)
    result = {
        "threads": arguments.threads,
        "threads_of_an_index": 1,
        "load_before": before,
        "weights": "trained" if fasts[0].split is not None else "random",
        "split": {"images": images, "captions": texts},
        "gallery": (
            f"the first images of the test split up to its {images:,}; beyond them its images (embeddings, units) "
            f"repeated with Gaussian noise of {arguments.noise:g} times their norm"
        ),
        "timed": f"from a query's vector or word units to its {HITS} best images; one query a call",
        "rsum": "of exact ranks in both directions on the test split itself",
        "together": arguments.together,
        "scorers": [contender.label for contender in slows],
        "models": {contender.label: contender.fingerprint for contender in [*fasts, *slows]},
        "encoding_a_query": encoding,
        "methods": [vars(method) for method in methods],
    }
    out = arguments.out or RESULTS / f"retrieval_time{'-small' if arguments.small else ''}.json"
    draw_times(result, out.with_suffix(".png"))
    print(write_result(out.stem, result, out.parent))


if __name__ == "__main__":
    main()
