"""A published checkpoint, opened: the state dicts of its networks, and the options it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from crossalign.convert.admitted import Attributes
from crossalign.convert.unpickle import read_pickled
from crossalign.errors import CrossAlignError

__all__ = ["PARTS", "Checkpoint", "LayoutMismatchError", "open_checkpoint"]

# What the code that descends from VSE++ saves as its model: the image encoder, the text encoder, and what else it has.
PARTS = ("image", "text", "extra")
_SHOWN = 6


class LayoutMismatchError(CrossAlignError):
    """A checkpoint has not the keys of its layout; the message shows the first ones, the attributes have all.

    Attributes:
        missing: keys that the layout has and the checkpoint has not, each after its part (``image fc.weight``).
        unknown: keys of the checkpoint that the layout does not know.
        shapes: keys whose tensors have another shape, with both shapes.
    """

    def __init__(
        self,
        source: str,
        layout: str,
        *,
        missing: list[str],
        unknown: list[str] | None = None,
        shapes: list[str] | None = None,
    ) -> None:
        self.missing, self.unknown, self.shapes = missing, unknown or [], shapes or []
        told = [
            f"{title} {', '.join(keys[:_SHOWN])}"
            + (f" and {len(keys) - _SHOWN} more" if keys[_SHOWN:] else "")
            for title, keys in (
                ("missing", self.missing),
                ("unknown", self.unknown),
                ("of another shape", self.shapes),
            )
            if keys
        ]
        # A key may hold anything, the end of a line included.
        keys = " ".join("; ".join(told).split())
        super().__init__(
            f"{source}: not a whole checkpoint of layout '{layout}': {keys}; --json tells every key"
        )


@dataclass(frozen=True)
class Checkpoint:
    """State dicts by part, without the prefix that parallel training puts before their keys."""

    source: str
    parts: tuple[Mapping[str, Tensor], ...]
    options: Mapping[str, Any]

    def has(self, part: str, *keys: str) -> bool:
        """Whether a part has all of these keys."""
        return all(key in self.state(part) for key in keys)

    def state(self, part: str) -> Mapping[str, Tensor]:
        """The state dict of a part; empty where the checkpoint has none."""
        place = PARTS.index(part)
        return self.parts[place] if place < len(self.parts) else {}

    def not_finite(self) -> list[str]:
        """Keys, each after its part, of tensors that hold NaN or infinity."""
        return [
            f"{name} {key}"
            for name in PARTS
            for key, tensor in self.state(name).items()
            if tensor.is_floating_point() and not tensor.isfinite().all()
        ]

    def tensor(self, layout: str, part: str, key: str, sides: int) -> Tensor:
        """A tensor with this many sides that a layout cannot do without.

        Raises:
            LayoutMismatchError: it is not there, or has another number of sides.
        """
        found = self.state(part).get(key)
        if found is None:
            raise LayoutMismatchError(self.source, layout, missing=[f"{part} {key}"])
        if found.dim() != sides:
            raise LayoutMismatchError(
                self.source, layout, missing=[], shapes=[f"{part} {key} with {found.dim()} sides for {sides}"]
            )
        return found


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read what ``torch.save`` wrote of ``{"model": [image state, text state, ...], "opt": options}``.

    Options are those of ``argparse`` or a dictionary of them.

    Raises:
        CrossAlignError: it cannot be read (see :func:`~crossalign.convert.unpickle.read_pickled`), holds no list of
            state dicts, or options of another kind.
    """
    content = read_pickled(path)
    options: dict[str, Any] = {}
    states = content
    if isinstance(content, dict):
        states = content.get("model")
        options = _options(content.get("opt"), path)
    if (
        not isinstance(states, list | tuple)
        or not 2 <= len(states) <= len(PARTS)
        or not all(isinstance(state, dict) and state for state in states)
        or not all(
            isinstance(key, str) and isinstance(value, Tensor)
            for state in states
            for key, value in state.items()
        )
    ):
        raise CrossAlignError(
            f"{path}: no checkpoint of published retrieval code: 'model' must be a list of the state dicts of the "
            "image encoder and the text encoder"
        )
    return Checkpoint(str(path), tuple(_unwrapped(state) for state in states), options)


def _options(told: Any, path: str | Path) -> dict[str, Any]:
    """Options as ``argparse`` had them, or saved as ``vars`` of that; none where the checkpoint has none."""
    if told is None:
        return {}
    values = told.values if isinstance(told, Attributes) else told
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise CrossAlignError(
            f"{path}: its options ('opt') are neither those of argparse nor a dictionary by name; save vars(opt)"
        )
    return values


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    wrapper = "module."
    wrapped = all(key.startswith(wrapper) for key in state)
    return {key.removeprefix(wrapper) if wrapped else key: tensor for key, tensor in state.items()}
