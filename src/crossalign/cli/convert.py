"""``crossalign convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossalign.errors import CrossAlignError


def command(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="File that the published code saved (model_best.pth.tar).")
    ] = None,
    vocab: Annotated[
        Path | None,
        typer.Option(
            help="Vocabulary that it was trained with: *_vocab.json or *_vocab.pkl; for a checkpoint with BERT the "
            "folder of vocab.txt and config.json.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Model folder to write.", show_default=False)
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Which code saved it; recognised by its keys where left out.")
    ] = None,
    feature_dim: Annotated[
        int | None, typer.Option(min=1, help="Width of your region features, to be sure that they fit.")
    ] = None,
    list_layouts: Annotated[bool, typer.Option("--list", help="Name the layouts that are known.")] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print the result, or the keys that do not fit, as JSON on standard output."
        ),
    ] = False,
) -> None:
    """Make a model folder of a checkpoint that published code saved.

    Nothing in the file is run. Unknown and missing keys are listed, and nothing is written then.
    """
    import json

    if list_layouts:
        _list(as_json)
        return
    if checkpoint is None or out is None:
        raise CrossAlignError(
            "give a checkpoint and a place: crossalign convert model_best.pth.tar --vocab VOCABULARY --out MODEL; "
            "or --list"
        )
    from crossalign.convert import LayoutMismatchError, convert_checkpoint

    try:
        done = convert_checkpoint(checkpoint, vocab, out, layout=layout, feature_dim=feature_dim)
    except LayoutMismatchError as error:
        if not as_json:
            raise
        found = {"missing": error.missing, "unknown": error.unknown, "shapes": error.shapes}
        typer.echo(json.dumps({"error": str(error), **found}))
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(done.to_dict()))
        return
    typer.echo(f"layout: {done.layout}; takes regions of {done.converted.feature_dim} numbers")
    if done.converted.left_out:
        shown = ", ".join(done.converted.left_out[:4])
        more = len(done.converted.left_out) - 4
        typer.echo(f"left out, needed in training at most: {shown}{f' and {more} more' if more > 0 else ''}")
    for note in done.converted.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"model: {done.folder}")


def _list(as_json: bool) -> None:
    import json

    from crossalign.convert import LAYOUTS
    from crossalign.convert.run import NEEDED

    if as_json:
        rows = [
            {"name": known.name, "source": known.source, "vocabulary": known.vocabulary} for known in LAYOUTS
        ]
        typer.echo(json.dumps(rows))
        return
    for known in LAYOUTS:
        typer.echo(f"{known.name}: {known.source}; needs {NEEDED[known.vocabulary]}")
