"""``crossalign index``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_NAMED = 5


def command(
    model: Annotated[
        str, typer.Argument(help="Model folder, training run, ensemble, or a model of the Hugging Face Hub.")
    ],
    folder: Annotated[Path, typer.Argument(help="Photos, in any depth.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the index; default: FOLDER.index.")
    ] = None,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Embed everything anew and swap at the end: for another model or width, or a damaged index.",
        ),
    ] = False,
    width: Annotated[
        int | None,
        typer.Option(
            help="Cut every embedding to N numbers; searches cut their queries alike. Default: whole."
        ),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="End well although photos could not be read; they are still listed."),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Photos embedded at a time.")] = 32,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1 ...")] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was done as JSON on standard output.")
    ] = False,
) -> None:
    """Index a folder of photos, or bring its index up to date.

    Only new, changed and deleted photos are touched. After an interruption the same command goes on.
    """
    import json
    import shlex

    from crossalign.cli.run_options import device_name
    from crossalign.errors import CrossAlignError
    from crossalign.search import update_index

    summary = update_index(
        model,
        folder,
        out,
        rebuild=rebuild,
        width=width,
        batch_size=batch_size,
        device=device_name(device),
        progress=not as_json,
    )
    if as_json:
        typer.echo(json.dumps(summary.as_dict(), ensure_ascii=False))
    else:
        typer.echo(
            f"{summary.index}: {summary.photos} photos (added {summary.added}, changed {summary.changed}, "
            f"renamed {summary.renamed}, removed {summary.removed}, unchanged {summary.unchanged}, "
            f"failed {summary.failed})"
        )
    if summary.failed:
        named = "; ".join(f"{failure.file} ({failure.reason})" for failure in summary.failures[:_NAMED])
        more = f"; and {summary.failed - _NAMED} more (--json lists all)" if summary.failed > _NAMED else ""
        message = f"{summary.failed} could not be read: {named}{more}"
        if not skip_bad:
            raise CrossAlignError(
                f"{message}; the other {summary.photos} are indexed: "
                "mend or remove these, or go on without them by --skip-bad"
            )
        typer.echo(f"crossalign: skipped, {message}", err=True)
    if not as_json:
        typer.echo(f'next:  crossalign search {shlex.quote(str(summary.index))} "a dog on the beach"')
