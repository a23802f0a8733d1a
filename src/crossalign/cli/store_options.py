"""What ``crossalign extract`` and ``crossalign teach`` share: options, and what is told of the store at the end."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING

import typer

from crossalign.errors import CrossAlignError

if TYPE_CHECKING:
    from crossalign.data.extraction import Extraction

__all__ = ["Interpolation", "Precision", "Resize", "refuse_options", "report"]


class Interpolation(StrEnum):
    bilinear = "bilinear"
    bicubic = "bicubic"
    nearest = "nearest"


class Resize(StrEnum):
    squash = "squash"
    crop = "crop"


class Precision(StrEnum):
    float16 = "float16"
    float32 = "float32"


def refuse_options(context: typer.Context, names: tuple[str, ...], reason: str) -> None:
    """Refuse options that were given and would do nothing."""
    given = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name) if option.name in names else None
        if source is not None and source.name != "DEFAULT":
            given.append(option.opts[0])
    if given:
        raise CrossAlignError(f"{', '.join(given)}: {reason}; leave out what does not belong")


def report(done: Extraction, as_json: bool) -> None:
    """Tell what is in the store, as text or as JSON."""
    store = done.store
    kind = {"image": "photos", "text": "captions"}[store.manifest["kind"]]
    result = {
        "folder": str(store.folder),
        "kind": store.manifest["kind"],
        "count": len(store),
        "units": store.manifest["units"],
        "dim": store.dim,
        "dtype": store.dtype.name,
        "bytes": sum(path.stat().st_size for path in store.folder.iterdir()),
        "resumed": done.resumed,
        "dropped_boxes": done.dropped_boxes,
    }
    if as_json:
        typer.echo(json.dumps(result))
        return
    units = "a varying number of units" if store.ragged else f"{store.manifest['units']} units"
    megabytes = result["bytes"] / 1e6
    typer.echo(
        f"{store.folder}: {len(store)} {kind}, {units} of {store.dim} numbers ({store.dtype.name}), "
        f"{megabytes:.1f} MB"
    )
    if done.resumed:
        typer.echo(f"{done.resumed} of them were there already")
    if done.dropped_boxes:
        typer.echo(f"{done.dropped_boxes} boxes left out: nothing of them is visible")
