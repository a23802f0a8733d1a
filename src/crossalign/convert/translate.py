"""From a published state dict to ours by the names of modules, telling what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Differences", "fold_batch_norm", "translate", "without"]


@dataclass
class Differences:
    """Keys that do not fit, each after its part."""

    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unknown or self.shapes)


def translate(
    own: Mapping[str, Tensor],
    published: Mapping[str, Tensor],
    names: Mapping[str, str],
    part: str,
    differences: Differences,
) -> dict[str, Tensor]:
    """Published tensors under our keys, in our shapes and types.

    A convolution over single units becomes the linear map that it is. Batch counters, which torch 0.4 did not have
    and which matter to no batch norm here, stay as they are where they are missing.

    Args:
        own: our state dict; every key begins with a module of ``names``.
        names: published module of each of ours.
        part: name of the part, for the differences.
        differences: is told what is missing, what nobody asked for, and what has another shape.
    """
    found: dict[str, Tensor] = {}
    used = set()
    for key, tensor in own.items():
        module = max((name for name in names if key.startswith(f"{name}.")), key=len)
        theirs = f"{names[module]}.{key.removeprefix(f'{module}.')}"
        given = published.get(theirs)
        if given is None:
            if not key.endswith("num_batches_tracked"):
                differences.missing.append(f"{part} {theirs}")
            continue
        used.add(theirs)
        if given.dim() == tensor.dim() + 1 and given.shape[-1] == 1:
            given = given.squeeze(-1)
        if given.shape != tensor.shape:
            differences.shapes.append(f"{part} {theirs} {_shape(given)} for {_shape(tensor)}")
            continue
        found[key] = given.to(tensor.dtype)
    differences.unknown.extend(f"{part} {key}" for key in published if key not in used)
    return found


def fold_batch_norm(
    state: Mapping[str, Tensor], linear: str, norm: str, epsilon: float = 1e-5
) -> dict[str, Tensor]:
    """A state dict whose linear map does the batch norm behind it, too, as both do together in evaluation."""
    names = [f"{linear}.{name}" for name in ("weight", "bias")]
    names += [f"{norm}.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    weight, bias, scale, shift, mean, variance = (state[name].double() for name in names)
    scale = scale / torch.sqrt(variance + epsilon)
    folded = {key: tensor for key, tensor in state.items() if not key.startswith(f"{norm}.")}
    folded[names[0]] = weight * scale.unsqueeze(1)
    folded[names[1]] = (bias - mean) * scale + shift
    return folded


def without(state: Mapping[str, Tensor], names: Iterable[str]) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict without these modules and single keys, and the keys that were left out."""
    names = set(names)
    prefixes = tuple(f"{name}." for name in names)
    left_out = [key for key in state if key in names or key.startswith(prefixes)]
    return {key: tensor for key, tensor in state.items() if key not in set(left_out)}, left_out


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "one number"
