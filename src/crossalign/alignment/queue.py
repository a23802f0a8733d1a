"""The last units seen, kept beyond their batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossalign.errors import CrossAlignError
from crossalign.masking import RealUnits, at_least_float32

__all__ = ["UnitQueue"]


class UnitQueue(nn.Module):
    """The last N units of the batches before, without gradient; part of the state dict.

    SwAV (Caron et al., NeurIPS 2020), section 3.2 and appendix A, balances small batches with such a queue.

    Args:
        length: N.
        dim: D, width of a unit.

    Raises:
        CrossAlignError: the length is not positive.
    """

    units: Tensor
    seen: Tensor

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        if length < 1:
            raise CrossAlignError(f"the queue's length is {length}; give at least 1")
        self.register_buffer("units", torch.zeros(length, dim))
        self.register_buffer("seen", torch.tensor(0))

    def past(self) -> Tensor:
        """The units kept, ``(P, D)`` with P = N once N have been seen, in no particular order."""
        return self.units[: int(self.seen)]

    @torch.no_grad()
    def push(self, units: Tensor, mask: Tensor | None = None) -> None:
        """Keep the real units of ``(B, N, D)`` by their mask ``(B, N)`` in the place of the oldest ones."""
        packed = at_least_float32(RealUnits.of(units, mask).pack(units.detach()))
        length, seen = len(self.units), int(self.seen)
        first = max(len(packed) - length, 0)
        places = torch.arange(seen + first, seen + len(packed), device=packed.device) % length
        # A new tensor: the one before may be held by a graph.
        self.units = self.units.index_copy(0, places, packed[first:].to(self.units))
        self.seen += len(packed)
