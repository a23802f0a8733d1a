"""Errors that the user can mend."""

from __future__ import annotations

__all__ = ["CrossAlignError", "missing_extra", "printable"]


class CrossAlignError(Exception):
    """A problem outside the code: its message says in one line what was found, where, and how to mend it.

    The command line prints the message and exits with 1; no traceback is shown unless ``--debug`` is given.
    """


def missing_extra(package: str, extra: str, purpose: str) -> CrossAlignError:
    """The error for an optional dependency that is not installed."""
    return CrossAlignError(f"{purpose} needs the package '{package}'; run: pip install 'crossalign[{extra}]'")


def printable(text: str) -> str:
    """The text with everything that would disturb a terminal written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
