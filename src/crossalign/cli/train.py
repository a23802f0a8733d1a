"""``crossalign train``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from crossalign.cli.run_options import OutcomeAsJson, listed


class Resume(StrEnum):
    """What to do with a run that is already in the folder."""

    auto = "auto"
    never = "never"


def command(
    recipe: Annotated[
        str, typer.Argument(help="A recipe that comes with the package (see --list), or the path of a .yaml.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run; default: runs/RECIPE.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: section.key=value, value read as YAML. Repeatable."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set seed=N.")] = None,
    resume: Annotated[
        Resume,
        typer.Option(
            help="auto: go on from the folder's last checkpoint; never: refuse a folder with a run."
        ),
    ] = Resume.never,
    show: Annotated[
        bool, typer.Option("--show", help="Print the whole recipe, defaults included, and stop.")
    ] = False,
    list_recipes: Annotated[
        bool, typer.Option("--list", help="Print what recipes there are and stop.")
    ] = False,
    as_json: OutcomeAsJson = False,
) -> None:
    """Train a model from a recipe.

    The run folder holds recipe.yaml, metrics.jsonl, tensorboard/, checkpoints/ and model/ (best validation R@sum).

    An interrupted run goes on with --resume auto and ends with the same weights.
    """
    from crossalign.recipe import available_recipes, described_recipes, load_recipe

    if list_recipes:
        typer.echo(listed(described_recipes()))
        return
    if not recipe:
        raise typer.BadParameter(
            f"give a recipe: {', '.join(available_recipes())}, or a .yaml", param_hint="RECIPE"
        )
    overrides = list(override or [])
    if seed is not None:
        overrides.append(f"seed={seed}")
    settings = load_recipe(recipe, overrides)
    if show:
        typer.echo(settings.to_yaml(), nl=False)
        return

    import json
    import shlex
    from dataclasses import asdict

    from crossalign.errors import CrossAlignError
    from crossalign.processes import is_first_process
    from crossalign.training.checkpoint import CHECKPOINT
    from crossalign.training.run_folder import RECIPE
    from crossalign.training.trainer import train

    if out is None and (settings.name.strip() in ("", ".", "..") or "/" in settings.name):
        raise CrossAlignError(
            f"recipe {recipe}: a run's name is that of its folder, found '{settings.name}'; take one without /, or say "
            "where with --out"
        )
    folder = out or Path("runs") / settings.name
    done = (folder / "training.json").is_file()
    try:
        result = train(settings, folder, resume=resume.value)
    except KeyboardInterrupt:
        if is_first_process() and (folder / RECIPE).is_file():
            kept = (folder / CHECKPOINT).is_file()
            means = "goes on from its last checkpoint" if kept else "begins anew: there is no checkpoint yet"
            typer.echo(f"{folder}: stopped; --resume auto {means}", err=True)
        raise
    if not is_first_process():
        return
    if done:
        typer.echo(f"{folder}: was finished already, nothing was trained", err=True)
    if as_json:
        typer.echo(json.dumps({"run": str(folder), **asdict(result)}))
        return
    waiting = 100 * result.data_seconds / max(result.seconds, 1e-9)
    typer.echo(
        f"best validation R@sum {result.best_rsum:.1f} after epoch {result.best_epoch} of {result.epochs}; "
        f"{result.steps} steps in {result.seconds:.0f} s ({waiting:.1f} % of it"
        f" waiting for data)\nmodel: {folder / 'model'}\nnext:  crossalign evaluate {shlex.quote(str(folder))}"
    )
