"""A study's summary as a table: for a page, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from crossalign.study.settings import available_studies
from crossalign.study.suite_data import kind_of
from crossalign.study.suite_notes import suite_notes

__all__ = ["markdown_table", "notes", "origin_line", "study_command", "study_page", "study_table"]

RECALLS = {
    "i2t_r1": "i→t R@1",
    "i2t_r5": "R@5",
    "i2t_r10": "R@10",
    "t2i_r1": "t→i R@1",
    "t2i_r5": "R@5",
    "t2i_r10": "R@10",
    "rsum": "R@sum",
}
BRIEF = {
    "variant",
    "seeds",
    RECALLS["i2t_r1"],
    RECALLS["t2i_r1"],
    RECALLS["rsum"],
    "validation R@sum",
    "word→region %",
    "difference in R@sum",
}
"""Columns of a brief table."""
MISSING = "–"
Summary = Mapping[str, Any]


def cells(summary: Summary, *, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """The heading and the rows, one a variant with a finished run, as plain text; :func:`notes` names the others.

    Args:
        brief: only the columns that say how good a variant is, and of its comparisons the first that is measured.
    """
    variants = {name: row for name, row in summary["variants"].items() if row["runs"]["done"]}
    words = any(row.get("word_to_region") for row in variants.values())
    numbers = [
        name
        for name in summary["study"]["numbers"]
        if any(name in row.get("numbers", {}) for row in variants.values())
    ]
    heading = [
        "variant",
        "seeds",
        *RECALLS.values(),
        "validation R@sum",
        *(["word→region %"] if words else []),
    ]
    heading += [
        *(name.replace("_", " ") for name in numbers),
        "minutes",
        "CPU minutes",
        "difference in R@sum",
    ]
    rows = []
    for name, row in variants.items():
        test, grounded = row.get("test", {}), row.get("word_to_region")
        line = [name, f"{len(row['runs']['done'])} of {len(summary['seeds'])}"]
        line += [_spread(test.get(metric)) for metric in RECALLS]
        line.append(_spread(row.get("validation_rsum")))
        if words:
            chance = f" (chance {grounded['chance']['mean']:.1f})" if grounded else ""
            line.append((_spread(grounded["accuracy"]) if grounded else MISSING) + chance)
        line += [_number(row.get("numbers", {}).get(number), row["runs"]["done"]) for number in numbers]
        line += [_spread(row.get("training_minutes")), _spread(row.get("training_cpu_minutes"))]
        compared = [entry for entry in row["against"] if "differences" in entry][: 1 if brief else None]
        line.append("; ".join(_difference(entry, summary) for entry in compared) or MISSING)
        rows.append(line)
    if brief:
        places = [place for place, name in enumerate(heading) if name in BRIEF]
        return [heading[place] for place in places], [[row[place] for place in places] for row in rows]
    return heading, rows


def notes(summary: Summary) -> Iterator[str]:
    """What the table itself does not tell: what is missing and why, and what stands where it does not belong."""
    waiting: dict[str, list[str]] = {}
    for name, row in summary["variants"].items():
        runs = row["runs"]
        if runs["missing"]:
            seeds = f" with seed {', '.join(map(str, runs['missing']))}" if runs["done"] else ""
            waiting.setdefault(seeds, []).append(name)
        for seed, reason in runs["failed"].items():
            yield f"{name}, seed {seed}: failed: {reason}"
        for seed, settings in runs["differing"].items():
            yield (
                f"{name}, seed {seed}: left out, made with other settings ({', '.join(settings)}); repeat the --set of "
                "then, or remove the record and run it again"
            )
        for entry in row["against"]:
            if entry["seeds"] and "reason" in entry:
                yield f"{name}: not compared with {entry['variant']}: {entry['reason']}"
    for seeds, names in sorted(waiting.items(), reverse=True):
        yield f"not run yet{seeds}: {', '.join(names)}"
    done = [row for row in summary["variants"].values() if row["runs"]["done"]]
    for name in summary["study"]["numbers"]:
        # Numbers of a suite have notes of their own.
        if done and kind_of(name) is None and not any(name in row.get("numbers", {}) for row in done):
            yield f"no finished run has the number '{name}'; it is misspelt, or what it measures is not on"
    yield from suite_notes(summary)
    for variant in summary["unknown_records"]:
        yield f"{variant}: has records but is no variant of the study; remove them"


def origin_line(summary: Summary) -> str:
    """Where the runs were made, in one line."""
    origin = summary["origin"]
    if not origin["machines"]:
        return "No run has ended yet."
    machines = "; ".join(
        f"{machine.get('accelerator') or machine['processor']}, {machine['cores']} cores, "
        f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
        for machine in origin["machines"]
    )
    commits = ", ".join(commit[:7] for commit in origin["commits"]) or "no repository"
    changed = " with changes" if origin["dirty"] else ""
    return (
        f"Made {origin['first'][:10]} to {origin['last'][:10]} by crossalign {', '.join(origin['versions'])} "
        f"(commit {commits}{changed}) on {machines}."
    )


def markdown_table(summary: Summary, *, brief: bool = False) -> list[str]:
    """The table as lines of Markdown; ``brief`` as in :func:`cells`."""
    heading, rows = cells(summary, brief=brief)
    lines = [_line(heading), "|---" * len(heading) + "|"]
    return lines + [_line([f"`{row[0]}`", *row[1:]]) for row in rows]


def study_page(summary: Summary, *, picture: str | None = None) -> str:
    """The whole of ``table.md``.

    Args:
        picture: file of the plot beside it.
    """
    study = summary["study"]
    lines = [f"# {study['title']}", "", *markdown_table(summary), "", reading(summary), ""]
    if told := [f"- {note}" for note in notes(summary)]:
        lines += [*told, ""]
    if picture is not None:
        lines += [f"![R@sum of every variant]({picture})", ""]
    lines += [f"`{study_command(summary)}`. {origin_line(summary)}", ""]
    return "\n".join(lines)


def study_command(summary: Summary) -> str:
    """What makes a study's table, with the data of ``--sts`` and ``--judgements`` that its numbers need."""
    study = summary["study"]
    # One of one's own is a file, by its name as a rule.
    name = study["name"] if study["name"] in available_studies() else f"{study['name']}.yaml"
    words = ["crossalign study", name, *(f"--set {override}" for override in summary["overrides"])]
    if summary["seeds"] != list(study["seeds"]):
        words.append(f"--seeds {','.join(map(str, summary['seeds']))}")
    asked = {kind_of(number) for number in study["numbers"]}
    words += [f"--{kind} FOLDER" for kind in ("sts", "judgements") if kind in asked]
    return " ".join(words)


def reading(summary: Summary) -> str:
    """How the table is to be read."""
    text = (
        f"Recalls in percent on the {summary['split']} split, epochs chosen on validation; mean ± standard deviation "
        "over seeds. "
    )
    compared = [entry for row in summary["variants"].values() for entry in row["against"]]
    if measured := [entry for entry in compared if "differences" in entry]:
        entry = measured[0]
        text += (
            f"Differences: to `{summary['study']['baseline']}` unless another is named, over the seeds that both have, "
            f"with the {100 * entry['confidence']:g} % bootstrap interval and the p-value of a paired permutation test "
            f"over {entry['images']:,} images."
        )
    return text.strip()


def study_table(summary: Summary, *, brief: bool = False) -> Table:
    """The table for a terminal; ``brief`` as in :func:`cells`."""
    heading, rows = cells(summary, brief=brief)
    table = Table(title=summary["study"]["title"], caption=reading(summary).replace("`", ""))
    for place, name in enumerate(heading):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=place == 0)
    for row in rows:
        table.add_row(*row)
    return table


def _spread(value: Mapping[str, Any] | None, form: str = ".1f") -> str:
    if value is None:
        return MISSING
    mean = f"{value['mean']:{form}}"
    return mean if value["sd"] is None else f"{mean} ± {value['sd']:{form}}"


def _number(value: Mapping[str, Any] | None, done: list[int]) -> str:
    """A further number, with how many of the runs have it where that is not all."""
    some = "" if value is None or "seeds" not in value else f" ({len(value['seeds'])} of {len(done)} seeds)"
    return _spread(value, ".4g") + some


def _difference(entry: Mapping[str, Any], summary: Summary) -> str:
    rsum = entry["differences"]["rsum"]
    text = f"{rsum['difference']:+.1f} ({rsum['low']:+.1f} to {rsum['high']:+.1f}), p = {rsum['p_value']:.2g}"
    if entry["variant"] != summary["study"]["baseline"]:
        text += f", to {entry['variant']}"
    return text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
