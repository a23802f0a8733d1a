"""What commands that write stores share: options, what they mean, and what is told of the store at the end."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossalign.cli.extract_parts import channels
from crossalign.errors import CrossAlignError

if TYPE_CHECKING:
    from crossalign.data.extraction import Extraction

__all__ = [
    "BatchSize",
    "Filter",
    "ImageRoot",
    "Interpolation",
    "Mean",
    "Precision",
    "Resize",
    "Side",
    "SourceCollection",
    "Std",
    "StoredPrecision",
    "Workers",
    "input_changes",
    "refuse_options",
    "report",
    "worker_count",
]


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


SourceCollection = Annotated[Path, typer.Argument(help="Folder of the collection.", show_default=False)]
ImageRoot = Annotated[Path | None, typer.Option(help="Where the photos are, if they moved.")]
Side = Annotated[
    int | None, typer.Option(help="Photos: side of the input in pixels; default: the model's own.")
]
Mean = Annotated[
    str | None, typer.Option(help="Channel means, as 0.5 or 0.48,0.46,0.41; default: the model's own.")
]
Std = Annotated[
    str | None, typer.Option(help="Channel standard deviations, like --mean; default: the model's own.")
]
Filter = Annotated[
    Interpolation | None, typer.Option(help="Filter of the resizing; default: the model's own.")
]
StoredPrecision = Annotated[Precision, typer.Option(help="Stored precision.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Photos or captions a batch.")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that decode photos; default: one less than the cores."),
]


def worker_count(workers: int | None) -> int:
    """How many processes decode photos."""
    return max(0, (os.cpu_count() or 1) - 1) if workers is None else workers


def input_changes(
    size: int | None,
    mean: str | None,
    std: str | None,
    interpolation: Interpolation | None,
    resize: Resize | None,
) -> dict[str, Any]:
    """What is asked for in place of a network's own pre-processing; None where nothing is.

    Raises:
        CrossAlignError: means or deviations that are no numbers.
    """
    return {
        "size": size,
        "mean": None if mean is None else channels("--mean", mean),
        "std": None if std is None else channels("--std", std),
        "interpolation": interpolation and interpolation.value,
        "resize": resize and resize.value,
    }


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
    count = store.manifest["units"]
    units = "a varying number of units" if store.ragged else f"{count} unit{'' if count == 1 else 's'}"
    if "teacher" in store.manifest:
        units = "one vector"
    megabytes = result["bytes"] / 1e6
    typer.echo(
        f"{store.folder}: {len(store)} {kind}, {units} of {store.dim} numbers ({store.dtype.name}), "
        f"{megabytes:.1f} MB"
    )
    if done.resumed:
        typer.echo(f"{done.resumed} of them were there already")
    if done.dropped_boxes:
        typer.echo(f"{done.dropped_boxes} boxes left out: nothing of them is visible")
