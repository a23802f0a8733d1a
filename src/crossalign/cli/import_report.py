"""What every sub-command of ``crossalign import`` does: run, then report what came in or what was wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from crossalign.data.collection import Collection
    from crossalign.data.importers import Source

__all__ = ["import_photos", "run_and_report", "show_progress"]


def import_photos(
    read: Callable[[], Source],
    path: Path,
    out: Path,
    name: str | None,
    split: str | None,
    split_sizes: str | None,
    seed: int,
    skip_bad: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Import a source of photos; ``read`` is called once nothing stands in the way of writing."""
    from crossalign.data.importers import SplitChoice, import_source
    from crossalign.data.importers.splits import parse_sizes
    from crossalign.data.tables import check_target

    def run() -> Collection:
        check_target(out, overwrite)
        splits = SplitChoice(split, parse_sizes(split_sizes) if split_sizes is not None else {}, seed)
        return import_source(
            read(), out, called=str(path), splits=splits, name=name, skip_bad=skip_bad, overwrite=overwrite,
            progress=show_progress(),
        )  # fmt: skip

    run_and_report(run, as_json)


def show_progress() -> bool:
    """Bars are for people: a log file gets none."""
    return sys.stderr.isatty()


def run_and_report(run: Callable[[], Collection], as_json: bool) -> None:
    """Print the splits of the collection that ``run`` returns; as JSON also the problems that stopped it."""
    from crossalign.data.importers.checks import SourceProblemsError, group_problems

    try:
        collection = run()
    except SourceProblemsError as error:
        if as_json:
            print(json.dumps({"imported": False, "problems": group_problems(error.problems)}, indent=2))
        raise
    summary = collection.summary()
    skipped = collection.provenance["skipped"]
    if as_json:
        print(json.dumps({"imported": True, **summary, "skipped": skipped}, indent=2, ensure_ascii=False))
        return
    _print_table(summary)
    for kind, count in skipped.items():
        typer.echo(f"left out: {count} {kind}", err=True)


def _print_table(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{summary['name']} ({summary['folder']})", title_justify="left")
    table.add_column("split")
    for column in ("images", "captions", "min per image", "mean", "max"):
        table.add_column(column, justify="right")
    for split, row in summary["splits"].items():
        per_image = row["captions_per_image"]
        table.add_row(
            split, f"{row['images']:,}", f"{row['captions']:,}",
            str(per_image["min"]), f"{per_image['mean']:.2f}", str(per_image["max"]),
        )  # fmt: skip
    Console().print(table)
