"""The same work on every tensor of a batch or an encoding: dataclasses, mappings and None around tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["concatenated", "map_tensors", "padded", "tensors_of"]

S = TypeVar("S")


def map_tensors(work: Callable[..., Tensor], first: S, *others: S) -> S:
    """A structure of what ``work`` makes of the tensors that stand at the same place of all given ones.

    What is no tensor stays as it is in the first.
    """
    result: Any = first
    if isinstance(first, Tensor):
        result = work(first, *others)
    elif isinstance(first, Mapping):
        result = {key: map_tensors(work, first[key], *(other[key] for other in others)) for key in first}  # type: ignore[index]
    elif is_dataclass(first) and not isinstance(first, type):
        result = replace(
            first,
            **{
                field.name: map_tensors(
                    work, getattr(first, field.name), *(getattr(other, field.name) for other in others)
                )
                for field in fields(first)
            },
        )
    return result


def tensors_of(structure: Any) -> list[Tensor]:
    """Every tensor of a structure, in an order that its kind alone decides."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(note, structure)
    return found


def concatenated(parts: Sequence[S]) -> S:
    """Structures of one kind, one below the other; later axes are padded with zeros to the longest part."""
    return map_tensors(_below_each_other, parts[0], *parts[1:])


def _below_each_other(*parts: Tensor) -> Tensor:
    longest = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].dim())]
    return torch.cat([padded(part, longest) for part in parts])


def padded(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """A tensor whose axes after the first have these sizes, by zeros at their ends."""
    missing = [size - tensor.shape[axis] for axis, size in enumerate(sizes, start=1)]
    return (
        F.pad(tensor, [count for size in reversed(missing) for count in (0, size)])
        if any(missing)
        else tensor
    )
