"""``crossalign average``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossalign.cli.run_options import Device, OutcomeAsJson, device_name


def command(
    models: Annotated[
        list[str],
        typer.Argument(
            help="A training run with --last or --best, or several runs or models of one architecture."
        ),
    ],
    last: Annotated[
        int | None, typer.Option(help="The last N epochs of the run, of those that it has kept.")
    ] = None,
    best: Annotated[
        int | None, typer.Option(help="The N epochs of the run with the best validation R@sum.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder of the mean, used like a run; default: RUN-last-N or RUN-best-N."
        ),
    ] = None,
    collection: Annotated[
        Path | None, typer.Option(help="Folder of the run's collection, if it has moved.")
    ] = None,
    device: Device = "auto",
    as_json: OutcomeAsJson = False,
) -> None:
    """Average the weights of models into one: epochs of a run, or runs of one architecture.

    A run keeps the models of its last epochs with training.keep_epochs. Batch norms' statistics are measured again on
    the training split of the first run. No search or evaluation gets slower: the mean is one model.
    """
    import json
    import shlex
    import sys
    from dataclasses import asdict

    from crossalign.errors import CrossAlignError
    from crossalign.provenance import shown_command
    from crossalign.training.average import average_run

    if last is not None and best is not None:
        raise CrossAlignError("--last and --best are both given; choose one")
    which, count = ("last", last) if best is None else ("best", best)
    if len(models) == 1 and count is None:
        raise CrossAlignError(
            f"{models[0]}: one model has no mean; say which epochs of the run (--last N, --best N), or name others"
        )
    if out is None:
        if count is None:
            raise CrossAlignError("several models are named; say where their mean goes (--out)")
        place = Path(models[0])
        out = place.with_name(f"{place.resolve().name}-{which}-{count}")
    result = average_run(
        models,
        out,
        count=count,
        which="last" if which == "last" else "best",
        collection=collection,
        device=device_name(device),
        command=shown_command("crossalign", sys.argv[1:]),
        progress=not as_json,
    )
    if as_json:
        typer.echo(json.dumps({"out": str(out), **asdict(result)}))
        return
    score = "" if result.validation_rsum is None else f"; validation R@sum {result.validation_rsum:.1f}"
    measured = f", statistics from {result.statistics_from} batches" if result.statistics_from else ""
    typer.echo(
        f"mean of {len(result.members)} models{measured}{score}\nsaved: {out}\n"
        f"next:  crossalign evaluate {shlex.quote(str(out))}"
    )
