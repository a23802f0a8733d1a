"""Fill the sections of docs/results.md on benchmarks from benchmarks/results: python docs/make_speed.py"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("results.md")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
Row = tuple[str, str]


def times(value: dict[str, Any], digits: int = 2) -> str:
    """A ratio with its spread."""
    middle, low, high = (f"{value[name]:.{digits}f}" for name in ("median", "min", "max"))
    return f"{middle} times ({low} to {high})"


def verdict(*met: bool, limit: str) -> str:
    """Whether a figure kept to what was asked of it, said of every figure that has a limit."""
    return f"; limit {limit}: {'met' if all(met) else '**missed**'}"


def alignment(result: dict[str, Any]) -> Iterator[Row]:
    """Losses against what no form can do without, and against the plain formula."""
    size = result["sizes"]
    names = {
        "lca": "Local Concept Alignment",
        "cra": "Contextual Relation Alignment",
        "pooling": "GPO pooling",
    }
    at = f"{size['batch']} pairs, {size['regions']} regions, width {size['dim']}"
    for name, value in result["to_floor"].items():
        yield (
            f"{names[name]}, forward and backward ({at})",
            f"{times(value, 3)} its matrix products alone" + _at_most(value),
        )
    for name, value in result["plain_to_ours"].items():
        yield f"{names[name]} written as the formula reads, same size", f"{times(value)} ours"


def _at_most(value: dict[str, Any]) -> str:
    return verdict(value["median"] <= value["at_most"], limit=f"{value['at_most']:g}")


def evaluation(result: dict[str, Any]) -> Iterator[Row]:
    """Ranks against the matrix product, and the statistics."""
    size = result["sizes"]
    at = f"{size['images']:,} images, {size['captions']:,} captions, width {size['width']:,}"
    ranks, memory = result["to_product"]["ranks"], result["memory_above_inputs_mb"]
    yield (
        f"Exact ranks in both directions ({at})",
        f"{times(ranks, 3)} the matrix product" + _at_most(ranks),
    )
    usual = result["usual_to_ours"]["full"]["median"]
    yield "The usual loop over sorted scores, same size", f"{usual:.2f} times ours"
    if memory["ranks"] is not None:
        told = verdict(memory["ranks"] <= memory["at_most"], limit=f"{memory['at_most']} MB")
        yield "Memory of the ranks above their inputs", f"{memory['ranks']:.0f} MB{told}"
    for name, value in result["statistics"].items():
        yield f"Bootstrap and permutation: {name}", f"{value['median_s']:.1f} s"


def search(result: dict[str, Any]) -> Iterator[Row]:
    """What a user waits for after the query is encoded."""
    for case in result["cases"]:
        views = "" if case["views"] == 1 else f", {case['views']} vectors a photo"
        speed, found = case["milliseconds"]["approximate"], case["recall_at_10"]["approximate"]
        told = (
            f"{speed['p50']:.2f} ms, 95 % below {speed['p95']:.1f} ms; recall@10 {found:.4f} of exact search"
        )
        if (limits := result["limits"]) is not None:
            slowest, least = limits["p50_ms"], limits["recall_at_10"]
            told += verdict(speed["p50"] <= slowest, found >= least, limit=f"{slowest:g} ms and {least:g}")
        yield f"One search among {case['photos']:,} photos (width {case['dim']:,}{views})", told


def feature_loading(result: dict[str, Any]) -> Iterator[Row]:
    """Memory of reading batches, of a small and of a large store."""
    few, many = result["memory"]["ids"]
    for count, grown in zip((few, many), result["memory"]["growth_bytes"], strict=True):
        yield (
            f"Memory while reading batches of a store of {count:,} ids ({grown['file_bytes'] / 1e6:,.0f} MB)",
            f"{(grown['opening'] + grown['ids'] + grown['batches']) / 1e6:.0f} MB",
        )


def teachers(result: dict[str, Any]) -> Iterator[Row]:
    """What uni-modal teachers cost a step of training, and what soft labels cost as a whole."""
    for name, value in result["recipes"].items():
        at = f"`{name}`, {value['batch']} pairs a step, {result['data']}"
        share, whole = value["teachers_to_step"], value["step_to_without"]
        yield (
            f"Teachers' share of a training step ({at})",
            f"{100 * share['median']:.2f} % ({100 * share['min']:.2f} to {100 * share['max']:.2f})"
            + verdict(share["median"] <= share["at_most"], limit=f"{100 * share['at_most']:g} %"),
        )
        yield "A step with soft labels, same recipe", f"{times(whole)} one without"


def scorers(result: dict[str, Any]) -> Iterator[Row]:
    """Scorers over all pairs against their matrix products, and the published loop."""
    size = result["sizes"]
    at = f"{size['images']:,} images, {size['texts']:,} captions, {size['regions']} regions, width {size['dim']:,}"
    clock = f"{result['clock']}" if "CPU" in result["clock"] else f"{result['machine']['threads']} threads"
    for name, value in result["scorers"].items():
        least = value.get("floor_to_products")
        floor = (
            "" if least is None else f"; products and passes in the cache alone {least['median']:.2f} times"
        )
        yield (
            f"{name.upper().replace('T2I', 't2i').replace('I2T', 'i2t')}, all pairs ({at})",
            f"{times(value['ours_to_products'])} its matrix products alone, "
            f"{value['seconds']['ours']:.0f} s ({clock}){floor}" + _at_most(value["ours_to_products"]),
        )
        yield (
            f"{name.upper().replace('T2I', 't2i').replace('I2T', 'i2t')} as published, caption by caption, same size",
            (f"{times(value['published_to_ours'], 1)} ours"),
        )


def retrieval_time(result: dict[str, Any]) -> Iterator[Row]:
    """Seconds a text query of every method in the smallest and in the largest gallery, and its accuracy."""
    names = {
        "product": "{model}, matrix product",
        "exact index": "{model}, exact index",
        "approximate index": "{model}, approximate index",
        "scorer": "{model}, every image",
        "re-rank": "{scorer} on the best {top} of {model}",
    }
    for method in result["methods"]:
        points = method["points"]
        if not points:
            continue
        told = [
            f"{_duration(point['median_s'])} among {point['size']:,} images"
            for point in (points[0], points[-1])[: len(points)]
        ]
        if method["kind"] == "approximate index":
            recalls = [f"{point['recall_at_10']:.2f}" for point in (points[0], points[-1])]
            accuracy = f"; recall@10 of exact search {', '.join(recalls)}"
        elif method["rsum"] is not None:
            accuracy = f"; R@sum {method['rsum']:.1f} on the split's {result['split']['images']:,} images"
        else:
            accuracy = ""
        yield f"One text query: {names[method['kind']].format(**method)}", ", ".join(told) + accuracy
    for name, value in result["encoding_a_query"].items():
        yield f"Encoding a text query before that: {name}", _duration(value["median_s"])


def query_time(result: dict[str, Any]) -> Iterator[Row]:
    """What the shape of a study's embeddings costs a search that compares with every image."""
    first = f"width {next(iter(result['shapes'])).partition(' x ')[2]} with one view"
    clock = "" if result["clock"] == "wall time" else f", {result['clock']}"
    for shape, names in result["shapes"].items():
        views, width = shape.split(" x ")
        told = f"width {width}" + ("" if views == "1" else f", {views} views an image")
        figures = [
            f"{_duration(gallery['seconds'][shape]['median_s'])} among {gallery['images']:,} images "
            f"({times(gallery['to_first'][shape], 1)} {first})"
            for gallery in result["galleries"]
        ]
        named = ", ".join(f"`{name}`" for name in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"All inner products of one text query, {told}{clock} ({named}{more})", ", ".join(figures)


def after_training(result: dict[str, Any]) -> Iterator[Row]:
    """R@sum of trained models by what was done with them afterwards."""
    runs, other = (_variant(result[kind]) for kind in ("runs", "other"))
    for name, kinds in result["rsum"].items():
        figures = ", ".join(
            f"{kind} {value['mean']:.1f} ± {value['deviation']:.1f}" for kind, value in kinds.items()
        )
        gain = result["difference_on_test"].get(name)
        more = "" if gain is None else f"; {gain['mean']:+.1f} on test"
        seen = ", all test queries together" if name in result["transductive"] else ""
        told = SCORES.get(name, name).replace("the other recipe", other)
        yield f"R@sum of {runs} ({len(result['runs'])} runs), {told}{seen}", figures + more
    elsewhere = result["elsewhere"]
    if elsewhere is not None:
        where = f"{elsewhere['collection']}, {elsewhere['split']}, as trained on Flickr8k"
        for told, value in ((runs, elsewhere["runs"]), (other, elsewhere["other"])):
            if value is not None:
                yield f"R@sum of {told} on {where}", f"{value['mean']:.1f} ± {value['deviation']:.1f}"


def word_regions(result: dict[str, Any]) -> Iterator[Row]:
    """How often words find a region that shows what they mean."""
    asked = {"accuracy": "choose a region that shows it", "pointing": "point at it"}
    for units, measures in result["units"].items():
        when = "before context" if units == "locals" else "after context"
        for measure, value in measures.items():
            low, high = value["interval"]
            base = result["base"][units][measure]
            told = (
                f"{value['accuracy']:.1f} % ({low:.1f} to {high:.1f}); chance {value['chance']:.1f}, "
                f"base model {base['accuracy']:.1f}"
            )
            if (less := value["less_base"]) is not None:
                low, high = less["interval"]
                told += f" ({less['difference']:+.1f}; {low:+.1f} to {high:+.1f})"
            yield (
                f"Words of {result['collection']} that {asked[measure]}, {when} "
                f"(`{result['runs']['model']['recipe']}`, {value['words']:,} words)",
                told,
            )


SCORES = {
    "with the next seed": "mean of its scores and those of the next seed",
    "with the other recipe": "mean of its scores and those of the other recipe",
}


def _variant(runs: list[str]) -> str:
    """What runs of one recipe share in their names, in code."""
    return f"`{runs[0].rpartition('-seed')[0] or runs[0]}`" if runs else ""


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.{2 if seconds < 0.01 else 0}f} ms"


BENCHMARKS = {
    "alignment": alignment,
    "evaluation": evaluation,
    "search": search,
    "search-100000-256": search,
    "feature_loading": feature_loading,
    "teachers": teachers,
    "scorers-256": scorers,
    "scorers-1024": scorers,
    "query_time": query_time,
    "retrieval_time": retrieval_time,
}
WORDS = {"word_regions-scenes": word_regions, "word_regions-flickr8k": word_regions}
AFTERWARDS = {"after_training": after_training}
PICTURES = {"retrieval_time": "Seconds a text query over the gallery's size, and R@sum over seconds"}


def section(benchmarks: Mapping[str, Callable[[dict[str, Any]], Iterator[Row]]]) -> str:
    """The table, a line for every figure, and the pictures that these benchmarks have drawn."""
    lines = []
    for name, rows in benchmarks.items():
        # A machine with other work has measured under another name.
        path = next(
            (p for p in (RESULTS / f"{name}.json", RESULTS / f"{name}-busy.json") if p.is_file()), None
        )
        if path is None:
            continue
        link = f"[{path.name}](../benchmarks/results/{path.name})"
        result = json.loads(path.read_text(encoding="utf-8"))
        lines += [f"| {what} | {figure} | {link} |" for what, figure in rows(result)]
    if lines:
        lines = ["| what | measured | file |", "| --- | --- | --- |", *lines]
    for name, told in PICTURES.items():
        if name in benchmarks and (RESULTS / f"{name}.png").is_file():
            lines += ["", f"![{told}](../benchmarks/results/{name}.png)"]
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """The page as it should be: what stands between the marks is replaced."""
    page = PAGE.read_text(encoding="utf-8")
    for mark, benchmarks in (("speed", BENCHMARKS), ("words", WORDS), ("afterwards", AFTERWARDS)):
        filled = "\n".join(
            part for part in (f"<!-- {mark} -->", section(benchmarks), f"<!-- /{mark} -->") if part
        )
        page, found = re.subn(
            f"<!-- {mark} -->.*<!-- /{mark} -->", lambda _, text=filled: text, page, flags=re.DOTALL
        )
        if found != 1:
            raise SystemExit(f"{PAGE}: has no section between the marks '{mark}'")
    return {PAGE: page}


def main() -> None:
    """Rewrite the page."""
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
        print(page)


if __name__ == "__main__":
    main()
