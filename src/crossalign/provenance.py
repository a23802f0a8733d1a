"""Where a number comes from: machine, commit of the code, command line."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

__all__ = ["code_state", "git", "machine", "now", "shown_command", "without_places"]

PACKAGE = Path(__file__).resolve().parent


def machine() -> dict[str, Any]:
    """What numbers are measured on; ``load`` is the machine's one-minute load average at this moment."""
    description: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if hasattr(os, "getloadavg"):
        description["load"] = round(os.getloadavg()[0], 2)
    if torch.cuda.is_available():
        description["accelerator"] = torch.cuda.get_device_name()
    return description


def code_state() -> dict[str, Any]:
    """``commit`` of the repository that the package runs from, and whether its code is changed, ``dirty``.

    Both are None where the package is installed without its repository. A virtual environment that lies in some other
    repository is not taken for one: its files are not tracked there.
    """
    if git(PACKAGE, "ls-files", "--error-unmatch", "--", "provenance.py") is None:
        return {"commit": None, "dirty": None}
    changes = git(PACKAGE, "status", "--porcelain", "--", ".")
    return {
        "commit": git(PACKAGE, "rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
    }


def now() -> str:
    """This moment, UTC, such as ``2024-05-01T12:00:00.000+00:00``: moments sort as their texts do."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command in ``folder``; None where it fails, as it does outside a repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def shown_command(program: str, arguments: Sequence[str], root: Path | None = None) -> str:
    """A command line without places of one machine: what lies below ``root`` is told from there, other absolute paths
    by their last part."""
    return shlex.join([program, *(_shown(argument, root) for argument in arguments)])


def without_places(value: Any) -> Any:
    """JSON without places of one machine: an absolute path, alone or behind ``key=``, is told by its last part."""
    if isinstance(value, dict):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inner) for inner in value]
    return _shown(value, None) if isinstance(value, str) else value


def _shown(argument: str, root: Path | None) -> str:
    key, equals, value = argument.partition("=")
    if equals and Path(value).is_absolute():
        return f"{key}={_shown(value, root)}"
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(root)) if root is not None and path.is_relative_to(root) else path.name


def _processor() -> str:
    """The processor's model name as the operating system tells it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
