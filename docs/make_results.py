"""Fill the results sections of README.md and docs/results.md from benchmarks/results and the studies in it.

Run it after a benchmark or a study: ``python docs/make_results.py``. Nothing is typed by hand, so no figure is without
its file. Studies are looked for in benchmarks/results/studies: ``crossalign study NAME --out
benchmarks/results/studies/NAME``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crossalign.study.summary import FORMAT_VERSION
from crossalign.study.table import markdown_table, notes, origin_line, reading, study_command

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# The studies that README.md shows, with the variants that answer their question; all of them where none are named.
# Controls and further variants stand in docs/results.md.
SHORT: dict[str, tuple[str, ...]] = {
    "flickr8k-selfalign": (
        "infinity",
        "infinity+lca",
        "infinity+cra",
        "infinity+selfalign",
        "camera",
        "camera+selfalign",
        "vsrn",
        "vsrn+heads",
        "vsrn+selfalign",
        "scan",
        "sgraf",
    ),
    "flickr8k-selfalign-paper": ("infinity", "infinity+selfalign", "infinity+selfalign-balanced"),
    "flickr8k-cusa": (
        "infinity",
        "infinity+cusa",
        "infinity+selfalign+cusa",
        "dual",
        "dual+cusa",
        "dual+selfalign",
    ),
    "flickr8k": (),
}
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"


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


def study_section(summary: dict[str, Any], up: str, *, full: bool) -> list[str]:
    """The table of a study, what it lacks, and where it comes from; in short its main variants alone."""
    name = summary["study"]["name"]
    if not full and SHORT.get(name):
        rows = summary["variants"]
        summary = {**summary, "variants": {row: rows[row] for row in SHORT[name]}}
    folder = f"{up}benchmarks/results/studies/{name}"
    lines = [
        f"**{summary['study']['title']}**",
        "",
        *markdown_table(summary, brief=not full),
        "",
    ]
    if not full:
        return lines
    lines += [reading(summary), ""]
    if missing := [f"- {note}" for note in notes(summary)]:
        lines += [*missing, ""]
    if (RESULTS / "studies" / name / "study.png").is_file():
        lines += [f"![R@sum of every variant]({folder}/study.png)", ""]
    return [*lines, f"[{name}]({folder}/study.json): `{study_command(summary)}`. {origin_line(summary)}", ""]


def studies() -> dict[str, dict[str, Any]]:
    """Every study that has been run, the main ones first."""
    paths = (RESULTS / "studies").glob("*/study.json")
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(paths)}
    for name, summary in found.items():
        if summary["format_version"] != FORMAT_VERSION:
            raise SystemExit(
                f"{name}: of another version; write it again: crossalign study {name} --report --out ..."
            )
    order = [*SHORT, *found]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


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
    measured = studies()
    for name, summary in measured.items():
        if full or name in SHORT:
            parts += study_section(summary, up, full=full)
    if not full and (search := read("search")) is not None:
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
