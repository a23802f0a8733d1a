"""``crossalign index``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossalign.cli.run_options import Device, device_name, told_bytes

_NAMED = 5


def command(
    model: Annotated[
        str, typer.Argument(help="Model folder, training run, ensemble, or a model of the Hugging Face Hub.")
    ],
    folder: Annotated[
        Path | None, typer.Argument(help="Photos, in any depth; none with --texts.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder of the index; default: FOLDER.index, TEXTS.texts.index of texts."
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="Index texts in place of photos: a file with a text a line, or a collection. Pictures and texts "
            "find them."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="With --texts COLLECTION: the captions of this split alone.")
    ] = None,
    bank: Annotated[
        Path | None,
        typer.Option(
            help="Texts that tell which photos come close to every query, a file or a collection (its captions for "
            "training): searches by words take that off their scores (QB-Norm). An update keeps it; another one needs "
            "--rebuild."
        ),
    ] = None,
    bank_temperature: Annotated[
        float | None, typer.Option(help="Temperature of the softmax over the bank; default: 0.1.")
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
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Embedded at a time; default: 32 photos or 256 texts.")
    ] = None,
    device: Device = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was done as JSON on standard output.")
    ] = False,
) -> None:
    """Index a folder of photos, or texts, or bring their index up to date.

    Only what is new, changed or gone is touched. After an interruption the same command goes on.
    """
    import json
    import shlex

    from crossalign.errors import CrossAlignError
    from crossalign.search import update_index

    if (folder is None) == (texts is None):
        given = "both are given" if folder is not None else "neither is given"
        raise CrossAlignError(f"give a folder of photos, or texts with --texts; {given}")
    if texts is not None:
        for option, value in (("--bank", bank), ("--bank-temperature", bank_temperature)):
            if value is not None:
                raise CrossAlignError(
                    f"{option}: a bank corrects how words find photos; leave it out with --texts"
                )
        _index_texts(model, texts, split, out, rebuild, width, batch_size or 256, device, as_json)
        return
    if split is not None:
        raise CrossAlignError(f"--split {split}: a folder of photos has no splits; leave it out")
    assert folder is not None
    summary = update_index(
        model,
        folder,
        out,
        rebuild=rebuild,
        width=width,
        bank=bank,
        bank_temperature=bank_temperature,
        batch_size=batch_size or 32,
        device=device_name(device),
        progress=not as_json,
    )
    if as_json:
        typer.echo(json.dumps(summary.as_dict(), ensure_ascii=False))
    else:
        typer.echo(
            f"{summary.index}: {summary.photos} photos (added {summary.added}, changed {summary.changed}, "
            f"renamed {summary.renamed}, removed {summary.removed}, unchanged {summary.unchanged}, "
            f"failed {summary.failed}), {told_bytes(summary.vector_bytes)} of vectors"
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


def _index_texts(
    model: str,
    texts: Path,
    split: str | None,
    out: Path | None,
    rebuild: bool,
    width: int | None,
    batch_size: int,
    device: str,
    as_json: bool,
) -> None:
    """``crossalign index --texts``."""
    import json
    import shlex

    from crossalign.search import update_text_index

    summary = update_text_index(
        model,
        texts,
        out,
        split=split,
        rebuild=rebuild,
        width=width,
        batch_size=batch_size,
        device=device_name(device),
        progress=not as_json,
    )
    if as_json:
        typer.echo(json.dumps(summary.as_dict(), ensure_ascii=False))
        return
    typer.echo(
        f"{summary.index}: {summary.texts} texts (added {summary.added}, moved {summary.moved}, removed "
        f"{summary.removed}, unchanged {summary.unchanged}), {told_bytes(summary.vector_bytes)} of vectors"
    )
    typer.echo(f"next:  crossalign search {shlex.quote(str(summary.index))} --image photo.jpg")
