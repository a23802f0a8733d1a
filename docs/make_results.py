"""Fill the results sections of README.md and docs/results.md from benchmarks/results/*.json.

Run it after a benchmark: ``python docs/make_results.py``. Nothing is typed by hand, so no figure is without its file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"
RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum")


def read(name: str) -> dict[str, Any] | None:
    """A result file, if it has been measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def origin(result: dict[str, Any], up: str) -> str:
    """Where figures come from."""
    machine = result["machine"]
    return (
        f"[{result['name']}.json]({up}benchmarks/results/{result['name']}.json): `{result['command']}`, "
        f"commit {result['commit'][:7]}, {machine['cores']} cores ({machine['processor']})."
    )


def recipe_table(result: dict[str, Any], up: str, *, words: bool = False) -> list[str]:
    """Recall of recipes over seeds, and what the comparison with the first one says."""
    head = "| recipe | seeds | i→t R@1 | R@5 | R@10 | t→i R@1 | R@5 | R@10 | R@sum | minutes a run |"
    lines = [head + (" word→region |" if words else ""), "|---" * (11 if words else 10) + "|"]
    for recipe, row in result["recipes"].items():
        cells = []
        for name in RECALLS:
            mean, deviation = row["test_mean"][name], row["test_sd"][name]
            cells.append(f"{mean:.1f}" + (f" ± {deviation:.1f}" if deviation is not None else ""))
        runs = list(row["runs"].values())
        minutes = max(run["training_seconds"] for run in runs) / 60
        line = f"| `{recipe}` | {len(runs)} | {' | '.join(cells)} | {minutes:.1f} |"
        if words:
            found = [run["word_to_region"] for run in runs]
            accuracy = sum(entry["accuracy"] for entry in found) / len(found)
            line += f" {accuracy:.1f} % (chance {found[0]['chance']:.1f} %) |"
        lines.append(line)
    lines.append("")
    for name, comparison in result["comparisons"].items():
        total = next(entry for entry in comparison["differences"] if entry["metric"] == "rsum")
        lines.append(
            f"R@sum of {name}: {total['difference']:+.1f} "
            f"(95 % interval {total['low']:+.1f} to {total['high']:+.1f} over images, p = {total['p_value']:.4f}, "
            "paired permutation)."
        )
    lines += [
        "",
        f"Mean ± standard deviation over seeds, test split, chosen on validation. {origin(result, up)}",
    ]
    return lines


def search_table(result: dict[str, Any], up: str) -> list[str]:
    """Latency and recall of the index."""
    lines = ["| photos | width | views | p50 ms | p95 ms | recall@10 | FAISS flat p50 ms |", "|---" * 7 + "|"]
    for case in result["cases"]:
        own, peer = case["milliseconds"]["approximate"], case["milliseconds"]["faiss flat"]
        lines.append(
            f"| {case['photos']:,} | {case['dim']} | {case['views']} | {own['p50']:.2f} | {own['p95']:.2f} "
            f"| {case['recall_at_10']['approximate']:.3f} | {peer['p50']:.2f} |"
        )
    return [*lines, "", f"Beyond encoding the query. {origin(result, up)}"]


def sections(up: str, *, full: bool) -> str:
    """The text between the markers; ``up`` leads from the page to the repository's root."""
    parts: list[str] = []
    if (flickr := read("flickr8k")) is not None:
        parts += ["**Flickr8k** (1,000 test photos, 5,000 captions)", "", *recipe_table(flickr, up), ""]
    if full:
        if (papers := read("flickr8k-papers")) is not None:
            parts += ["**Flickr8k, the papers' own settings**", "", *recipe_table(papers, up), ""]
        if (scenes := read("scenes")) is not None:
            parts += ["**Synthetic scenes** (500 test scenes)", "", *recipe_table(scenes, up, words=True), ""]
    elif (search := read("search")) is not None:
        parts += ["**Search**", "", *search_table(search, up), ""]
    return "\n".join(parts)


def pages() -> dict[Path, str]:
    """Both pages as they should be."""
    filled = {}
    for page, up, full in ((ROOT / "README.md", "", False), (ROOT / "docs" / "results.md", "../", True)):
        text = page.read_text(encoding="utf-8")
        before, found, rest = text.partition(BEGIN)
        _, closed, after = rest.partition(END)
        if not found or not closed:
            raise SystemExit(f"{page}: has no results section")
        filled[page] = before + BEGIN + sections(up, full=full) + END + after
    return filled


def main() -> None:
    """Rewrite both pages."""
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
