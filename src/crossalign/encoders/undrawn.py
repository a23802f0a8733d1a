"""Networks built without drawing the random weights that a file replaces at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

__all__ = ["Undrawn"]

# A function that the mode is asked about runs without it, so all that draw have to be named.
_DRAWING = {
    Tensor.uniform_,
    Tensor.normal_,
    init.uniform_,
    init.normal_,
    init.trunc_normal_,
    init.kaiming_uniform_,
    init.kaiming_normal_,
}


class Undrawn(TorchFunctionMode):
    """Inside, tensors that would be filled with random numbers become zero: a large network is built in a blink.

    Every weight has to be loaded afterwards. The random generators do not move.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _DRAWING:
            tensor: Tensor = args[0] if args else (kwargs or {})["tensor"]
            # Zeros, as a function that draws until all numbers are in range would never end with what is there.
            with torch.no_grad():
                return tensor.zero_()
        return func(*args, **(kwargs or {}))
