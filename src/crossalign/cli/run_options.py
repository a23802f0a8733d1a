"""Options that several commands on a trained model share: what the model is given."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["ImageFeatures", "Raw", "TextFeatures"]

ImageFeatures = Annotated[
    list[str] | None,
    typer.Option(help="FeatureStore instead of photos, by path or name; default: the run's own. Repeatable."),
]
TextFeatures = Annotated[
    str | None, typer.Option(help="FeatureStore instead of captions; default: the run's own.")
]
Raw = Annotated[bool, typer.Option("--raw", help="Encode the photos and captions themselves, no stores.")]
