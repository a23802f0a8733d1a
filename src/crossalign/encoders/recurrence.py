"""Reading the real units of each item in order with a recurrent network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossalign.masking import RealUnits

__all__ = ["last_state", "read_units"]


def read_units(gru: nn.GRU, rows: Tensor, real: RealUnits) -> Tensor:
    """States ``(B, N, H)`` of a one-directional GRU over each item's real units, one after another.

    The state of an item's n-th real unit stands at place n, also where the mask has holes; what stands behind
    the last one means nothing. Most images have nearly as many regions as the batch is wide; reading on over
    padding then costs less than torch's packed sequences, which take twice as long a unit on a CPU.

    Args:
        gru: one direction, ``batch_first``.
        rows: the real units of a batch ``(M, C)``.
        real: where they stand among ``(B, N)``.
    """
    states: Tensor = gru(real.in_front().unpack(rows))[0]
    return states


def last_state(states: Tensor, real: RealUnits) -> Tensor:
    """The state ``(B, H)`` after each item's last real unit; zero for an item without one.

    Args:
        states: what :func:`read_units` returns.
        real: what it was given.
    """
    counts = real.counts(states.device)
    items = torch.arange(len(states), device=states.device)
    last = states[items, (counts - 1).clamp(min=0)]
    return last.masked_fill((counts == 0).unsqueeze(1), 0.0)
