"""What several commands share: options on what a model is given, where it runs and what is printed; words for it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossalign.errors import CrossAlignError
from crossalign.reranking import RERANK_TOP

if TYPE_CHECKING:
    from crossalign.evaluation.of_model import Hubness

__all__ = [
    "Device",
    "EvaluatedCollection",
    "EvaluatedSplit",
    "ImageFeatures",
    "OutcomeAsJson",
    "Raw",
    "ResultAsJson",
    "Scale",
    "Scaling",
    "TextFeatures",
    "asked_hubness",
    "asked_top",
    "device_name",
    "listed",
    "name_of_hubness",
    "told_bytes",
]

Device = Annotated[str, typer.Option("--device", help="Where the model runs: auto, cpu, cuda, cuda:1 ...")]
ResultAsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
OutcomeAsJson = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON on standard output.")]
EvaluatedCollection = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the collection; default: the run's own. Stores in it with the names of the run's are used."
    ),
]
EvaluatedSplit = Annotated[str, typer.Option(help="Which split.")]
ImageFeatures = Annotated[
    list[str] | None,
    typer.Option(help="FeatureStore instead of photos, by path or name; default: the run's own. Repeatable."),
]
TextFeatures = Annotated[
    str | None, typer.Option(help="FeatureStore instead of captions; default: the run's own.")
]


class Scale(StrEnum):
    """What an ensemble averages."""

    raw = "raw"
    standardised = "standardised"


Scaling = Annotated[
    Scale | None,
    typer.Option(
        help="What is averaged: raw scores, or standardised ones (each model's, less their mean and divided by their "
        "standard deviation over the gallery). Default: raw for embeddings and for scorers of one kind, else "
        "standardised."
    ),
]
Raw = Annotated[bool, typer.Option("--raw", help="Encode the photos and captions themselves, no stores.")]


def asked_top(rerank: str | None, rerank_top: int | None) -> int:
    """How many of the best are put into order.

    Raises:
        CrossAlignError: ``--rerank-top`` without ``--rerank``.
    """
    if rerank is None and rerank_top is not None:
        raise CrossAlignError(f"--rerank-top {rerank_top}: nothing re-ranks; give a model with --rerank too")
    return RERANK_TOP if rerank_top is None else rerank_top


def asked_hubness(method: str | None, temperature: float | None, bank: str | None) -> Hubness | None:
    """The correction of hubs that is asked for.

    Raises:
        CrossAlignError: options of it without ``--hubness``, or that do not fit it.
    """
    from crossalign.evaluation.hubness import TEMPERATURE
    from crossalign.evaluation.of_model import Hubness

    if method is None:
        for option, given in (("--hubness-temperature", temperature), ("--hubness-bank", bank)):
            if given is not None:
                raise CrossAlignError(f"{option} {given}: nothing is corrected; give --hubness too")
        return None
    hubness = Hubness(method, TEMPERATURE if temperature is None else temperature, bank or "train")
    if bank is not None and not hubness.has_bank:
        raise CrossAlignError(
            f"--hubness-bank {bank}: {method} looks at the queries of the split itself; leave it out, or give "
            "--hubness query-bank"
        )
    return hubness


def name_of_hubness(hubness: Hubness | None) -> str | None:
    """What a result's place says of it."""
    if hubness is None:
        return None
    return f"{hubness.method}-of-{hubness.bank}" if hubness.has_bank else hubness.method


def device_name(name: str) -> str:
    """The device of ``--device``; asked for before anything else is done."""
    from crossalign.devices import usable_device

    return usable_device(name, "--device")


def listed(told: Mapping[str, str]) -> str:
    """A line each: the name, and what is told of it."""
    width = max(map(len, told))
    return "\n".join(f"{name:<{width}}  {words}" for name, words in told.items())


def told_bytes(count: int) -> str:
    """A number of bytes in words, such as ``1.5 MB``."""
    size, units = float(count), ["B", "kB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"
