"""Fill the section on speed of docs/results.md from benchmarks/results: python docs/make_speed.py"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("results.md")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
Row = tuple[str, str]


def times(value: dict[str, Any]) -> str:
    """A ratio with its spread."""
    return f"{value['median']:.2f} times ({value['min']:.2f} to {value['max']:.2f})"


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
        yield f"{names[name]}, forward and backward ({at})", f"{times(value)} its matrix products alone"
    for name, value in result["plain_to_ours"].items():
        yield f"{names[name]} written as the formula reads, same size", f"{times(value)} ours"


def evaluation(result: dict[str, Any]) -> Iterator[Row]:
    """Ranks against the matrix product, and the statistics."""
    size = result["sizes"]
    at = f"{size['images']:,} images, {size['captions']:,} captions, width {size['width']:,}"
    yield (
        f"Exact ranks in both directions ({at})",
        f"{times(result['to_product']['ranks'])} the matrix product",
    )
    usual = result["usual_to_ours"]["full"]["median"]
    yield "The usual loop over sorted scores, same size", f"{usual:.2f} times ours"
    if result["memory_above_inputs_mb"]["ranks"] is not None:
        yield "Memory of the ranks above their inputs", f"{result['memory_above_inputs_mb']['ranks']:.0f} MB"
    for name, value in result["statistics"].items():
        yield f"Bootstrap and permutation: {name}", f"{value['median_s']:.1f} s"


def search(result: dict[str, Any]) -> Iterator[Row]:
    """What a user waits for after the query is encoded."""
    for case in result["cases"]:
        views = "" if case["views"] == 1 else f", {case['views']} vectors a photo"
        speed, found = case["milliseconds"]["approximate"], case["recall_at_10"]["approximate"]
        yield (
            f"One search among {case['photos']:,} photos (width {case['dim']:,}{views})",
            f"{speed['p50']:.2f} ms, 95 % below {speed['p95']:.1f} ms; recall@10 {found:.4f} of exact search",
        )


def feature_loading(result: dict[str, Any]) -> Iterator[Row]:
    """Memory of reading batches, of a small and of a large store."""
    few, many = result["memory"]["ids"]
    for count, grown in zip((few, many), result["memory"]["growth_bytes"], strict=True):
        yield (
            f"Memory while reading batches of a store of {count:,} ids ({grown['file_bytes'] / 1e6:,.0f} MB)",
            f"{(grown['opening'] + grown['ids'] + grown['batches']) / 1e6:.0f} MB",
        )


BENCHMARKS = {
    "alignment": alignment,
    "evaluation": evaluation,
    "search": search,
    "feature_loading": feature_loading,
}


def section() -> str:
    """The table, a line for every figure."""
    lines = ["| what | measured | file |", "| --- | --- | --- |"]
    for name, rows in BENCHMARKS.items():
        # A machine with other work has measured under another name.
        path = next(
            (p for p in (RESULTS / f"{name}.json", RESULTS / f"{name}-busy.json") if p.is_file()), None
        )
        if path is None:
            continue
        link = f"[{path.name}](../benchmarks/results/{path.name})"
        result = json.loads(path.read_text(encoding="utf-8"))
        lines += [f"| {what} | {figure} | {link} |" for what, figure in rows(result)]
    return "\n".join(lines)


def main() -> None:
    """Replace what stands between the marks."""
    page = PAGE.read_text(encoding="utf-8")
    filled = f"<!-- speed -->\n{section()}\n<!-- /speed -->"
    PAGE.write_text(
        re.sub(r"<!-- speed -->.*<!-- /speed -->", lambda _: filled, page, flags=re.DOTALL), "utf-8"
    )
    print(PAGE)


if __name__ == "__main__":
    main()
