"""Checkpoints: everything an exact resume needs, whole at any instant."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossalign.errors import CrossAlignError
from crossalign.files import atomic_path
from crossalign.processes import Processes

__all__ = [
    "CHECKPOINT",
    "begin_drawing",
    "load_checkpoint",
    "random_state",
    "restore_random_state",
    "save_checkpoint",
]

FORMAT_VERSION = 3

# Where it stands in a run's folder.
CHECKPOINT = Path("checkpoints") / "last.ckpt"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write to a temporary name, flush, rename: a kill at any instant leaves the old or the new one."""
    with atomic_path(path) as temporary:
        torch.save({"format_version": FORMAT_VERSION, **state}, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; tensors and plain containers only.

    Raises:
        CrossAlignError: it is missing, damaged or of another version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CrossAlignError(f"{path}: no such checkpoint") from None
    except PermissionError:
        raise CrossAlignError(f"{path}: cannot be read (permission denied)") from None
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, KeyError):
        # PyTorch's reason depends on where the file ends, and its advice is of other things.
        raise CrossAlignError(
            f"{path}: damaged checkpoint (cut short or written over); put a whole copy back, or remove it and train "
            "the run again"
        ) from None
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        raise CrossAlignError(f"{path}: not a checkpoint of format {FORMAT_VERSION}; start a new run")
    return state


def random_state() -> dict[str, Any]:
    """State of the generators that this process draws from in training."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Go on drawing where :func:`random_state` was taken."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def begin_drawing(seed: int, processes: Processes, states: Sequence[dict[str, Any]] | None) -> None:
    """Begin with the run's seed, or go on where a checkpoint was taken.

    Each process draws for itself, the first one as a process that is alone. With another number of processes than at
    the checkpoint, only the first one goes on; what the others draw is new.

    Args:
        states: :func:`random_state` of every process at the checkpoint, by rank.
    """
    own = np.random.SeedSequence([seed, processes.rank, 0 if states is None else len(states)])
    torch.manual_seed(seed if processes.first else int(own.generate_state(1)[0]))
    if states is not None and (processes.first or len(states) == processes.count):
        restore_random_state(states[processes.rank])
