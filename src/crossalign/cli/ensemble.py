"""``crossalign ensemble``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossalign.cli.run_options import OutcomeAsJson, Scaling


def command(
    models: Annotated[
        list[str],
        typer.Argument(help="Two or more training runs, model folders, or models of the Hugging Face Hub."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the ensemble.")],
    scale: Scaling = None,
    as_json: OutcomeAsJson = False,
) -> None:
    """Make one folder of several models whose similarities are averaged, for evaluate, index and search.

    The models are copied into it, with the recipes of their runs, so each finds its own features.
    """
    import json
    import shlex

    from crossalign.ensemble import write_ensemble

    stored = write_ensemble(models, out, scale=None if scale is None else scale.value)
    if as_json:
        members = [
            {"folder": str(member), "name": name}
            for member, name in zip(stored.members, stored.names, strict=True)
        ]
        typer.echo(json.dumps({"out": str(out), "scale": stored.scale, "members": members}))
        return
    typer.echo(
        f"ensemble of {' and '.join(stored.names)}, {stored.scale} scores\nsaved: {out}\n"
        f"next:  crossalign evaluate {shlex.quote(str(out))}"
    )
