"""Real and padded units: work on the real ones only, average them, put them back in their places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RealUnits", "at_least_float32", "masked_mean"]


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor itself, or half precision raised to float32, where sums and exponentials are safe."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


@dataclass(frozen=True)
class RealUnits:
    """Where the M real units of a batch stand among its ``B * N`` units.

    Attributes:
        batch: B.
        length: N.
        positions: ``(M,)`` flat positions in order; ``None`` where all are real, so that nothing is copied.
    """

    batch: int
    length: int
    positions: Tensor | None

    @classmethod
    def of(cls, units: Tensor, mask: Tensor | None) -> RealUnits:
        """The real units of ``(B, N, ...)`` by their mask ``(B, N)``; ``None``: all of them."""
        batch, length = units.shape[:2]
        positions = None if mask is None else mask.flatten().nonzero().squeeze(1)
        if positions is not None and len(positions) == batch * length:
            positions = None
        return cls(batch, length, positions)

    def places(self, device: torch.device) -> Tensor:
        """Flat positions ``(M,)``, also where all are real."""
        if self.positions is None:
            return torch.arange(self.batch * self.length, device=device)
        return self.positions

    def counts(self, device: torch.device) -> Tensor:
        """How many real units each item has, ``(B,)`` int64."""
        if self.positions is None:
            return torch.full((self.batch,), self.length, device=device)
        return (self.positions // self.length).bincount(minlength=self.batch)

    def in_front(self) -> RealUnits:
        """The same units moved to the front of their item, in order, so that no hole is between them."""
        if self.positions is None:
            return self
        owners = self.positions // self.length
        counts = owners.bincount(minlength=self.batch)
        first = counts.cumsum(0) - counts
        places = torch.arange(len(owners), device=owners.device) - first[owners] + owners * self.length
        return RealUnits(self.batch, self.length, places)

    def pack(self, units: Tensor) -> Tensor:
        """The real units of ``(B, N, D)`` as one matrix ``(M, D)``."""
        flat = units.flatten(0, 1)
        return flat if self.positions is None else flat.index_select(0, self.positions)

    def unpack(self, packed: Tensor) -> Tensor:
        """Packed units ``(M, D)`` back in their places in ``(B, N, D)``, zeros at padded ones."""
        if self.positions is not None:
            flat = packed.new_zeros(self.batch * self.length, packed.shape[1])
            packed = flat.index_copy_(0, self.positions, packed)
        return packed.unflatten(0, (self.batch, self.length))


def masked_mean(units: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean ``(B, D)`` over the real units of ``(B, N, D)``; zero where an item has none.

    Padded units have no influence, whatever they hold: they are replaced by zero, not multiplied by it. The
    sum is at least float32, the mean has the dtype of the units.
    """
    if mask is None:
        return units.mean(dim=1)
    count = mask.sum(dim=1, keepdim=True).clamp(min=1)
    total = at_least_float32(units.masked_fill(~mask.unsqueeze(-1), 0.0)).sum(dim=1)
    return (total / count).to(units.dtype)
