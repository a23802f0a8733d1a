"""Notes on standard error that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from crossalign.search import Comparison

__all__ = ["tell_fallback", "tell_unknown_words"]


def tell_unknown_words(words: Sequence[str], model: str = "the model") -> None:
    """Say which words of a text a model has no vector of its own for; nothing where it has all."""
    if words:
        typer.echo(f"crossalign: {model} does not know: {', '.join(words)}", err=True)


def tell_fallback(way: Comparison, holds: str) -> None:
    """Say why two items of one kind are not compared by uni-modal heads, where they are not."""
    if way.fallback is not None:
        typer.echo(
            f"crossalign: {way.fallback}: {holds} are compared by the cosine of the "
            "embeddings made for photos with texts",
            err=True,
        )
