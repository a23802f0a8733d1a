"""Notes on standard error that several commands share."""

from __future__ import annotations

from collections.abc import Sequence

import typer

__all__ = ["tell_unknown_words"]


def tell_unknown_words(words: Sequence[str], model: str = "the model") -> None:
    """Say which words of a text a model has no vector of its own for; nothing where it has all."""
    if words:
        typer.echo(f"crossalign: {model} does not know: {', '.join(words)}", err=True)
