"""Devices by name: ``auto`` made one, and refused in clear words where there is none."""

from __future__ import annotations

import torch

from crossalign.errors import CrossAlignError

__all__ = ["check_device", "usable_device"]


def usable_device(name: str, said: str = "device") -> str:
    """The device to use: ``auto`` is CUDA where there is one.

    Args:
        said: what the name was given to, for the message.

    Raises:
        CrossAlignError: there is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(name, said)
    return name


def check_device(device: str | torch.device, said: str = "device") -> None:
    """Refuse a device that cannot be used here; PyTorch's own words are many and about other makes.

    Raises:
        CrossAlignError: there is no such device, or its name means nothing.
    """
    name = str(device)
    try:
        kind = torch.device(device)
    except RuntimeError:
        raise _unknown(name, said) from None
    if kind.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise CrossAlignError(f"{said} {name}: PyTorch finds no CUDA device here; use cpu")
        if kind.index is not None and kind.index >= count:
            raise CrossAlignError(
                f"{said} {name}: the last CUDA device here is cuda:{count - 1}; use that one"
            )
    try:
        # Memory that gives nothing back, as 'meta', is no place for a model.
        torch.zeros(1, device=kind).cpu()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise _unknown(name, said) from None


def _unknown(name: str, said: str) -> CrossAlignError:
    return CrossAlignError(f"{said} {name}: no device that can be used here; give auto, cpu, cuda or cuda:1")
