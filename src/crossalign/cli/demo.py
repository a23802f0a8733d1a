"""``crossalign demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossalign.cli.run_options import OutcomeAsJson


def command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything the demo makes.")] = Path(
        "demo"
    ),
    scenes: Annotated[
        int, typer.Option(min=60, help="Training scenes; validation and test scenes come on top.")
    ] = 2000,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training scenes; default: the recipe's.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="What to train; scenes-vse is the same without SelfAlign.")] = (
        "scenes-vse-selfalign"
    ),
    seed: Annotated[int, typer.Option(help="Seed of scenes and training.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier demo in the folder.")
    ] = False,
    as_json: OutcomeAsJson = False,
) -> None:
    """Draw scenes, train on them, evaluate, index, search, and write a report: the whole of crossalign in minutes.

    Nothing is downloaded. The folder gets scenes/, run/ (the model), index/, searches/ and report.html.
    """
    import json

    from crossalign.demo import run_demo

    outcome = run_demo(out, scenes=scenes, epochs=epochs, recipe=recipe, seed=seed, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps(outcome.to_json()))
        return
    outcome.print()
