"""Entry point of the ``crossalign`` command."""

from __future__ import annotations

import errno
import inspect
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated

import typer

from crossalign import __version__
from crossalign.errors import CrossAlignError, printable

__all__ = ["app", "main"]

# Threads that spin while they wait cost a step tens of times its time as soon as another process wants a core; read
# once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

COMMANDS = (
    "demo",
    "import",
    "extract",
    "teach",
    "train",
    "evaluate",
    "evaluate-all",
    "compare",
    "average",
    "ensemble",
    "explain",
    "study",
    "index",
    "search",
    "convert",
)

_MEND = {
    errno.EACCES: "mend its permissions, or choose another place",
    errno.EPERM: "mend its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "make room on the disk, or choose another place",
    errno.EDQUOT: "make room on the disk, or choose another place",
    errno.ENOENT: "check the path, or choose another place",
    errno.EISDIR: "give a file, not a folder",
    errno.ENOTDIR: "a part of this path is a file; give a folder, or choose another place",
    errno.EEXIST: "something else is in this place; choose another",
}

app = typer.Typer(
    name="crossalign",
    help="Fast and accurate image-text retrieval: train, evaluate, index and search.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"crossalign {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (any position).")
    ] = False,
) -> None:
    pass


def _reflowed(command: Callable[..., None]) -> str:
    """A command's help, each paragraph on one line: the terminal breaks them, and keeps breaks of the source."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


for _name in COMMANDS:
    # 'import' is a keyword: its module is cli/import_.py. A command module exports its function as `command`,
    # or a typer.Typer as `app` where it has sub-commands.
    _file = "import_" if _name == "import" else _name.replace("-", "_")
    _module = import_module(f"crossalign.cli.{_file}")
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_name)
    else:
        app.command(_name, help=_reflowed(_module.command))(_module.command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; bad input ends with one clear line on standard error and a non-zero exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        app(arguments, prog_name="crossalign")  # ends with SystemExit: 0, or 2 for a wrong call
    except CrossAlignError as error:
        if debug:
            raise
        _tell(str(error))
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and (told := _about_file(error)) is not None:
            _tell(told)
            sys.exit(1)
        message = " ".join(str(error).split()) or "no message"
        _tell(f"unexpected {type(error).__name__}: {message} (add --debug for the traceback)")
        sys.exit(70)


def _tell(problem: str) -> None:
    """Names and keys come from files: what would command the terminal is spelt out."""
    typer.echo("crossalign: " + "\n".join(map(printable, problem.split("\n"))), err=True)


def _about_file(error: OSError) -> str | None:
    """What is wrong with which file, where the system says it: nearly always a wrong path or a full disk."""
    if not isinstance(error.filename, str | bytes | os.PathLike) or not error.strerror:
        return None
    mend = _MEND.get(error.errno or 0)
    return f"{os.fsdecode(error.filename)}: {error.strerror}" + (f"; {mend}" if mend else "")
