"""Many units to one vector: mean, maximum, or a learnt weighting of the sorted features."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from crossalign.errors import CrossAlignError
from crossalign.masking import at_least_float32, masked_mean

__all__ = ["GeneralizedPooling", "MaxPooling", "MeanPooling", "build_pooling"]


class MeanPooling(nn.Module):
    """Mean over the real units."""

    def forward(self, units: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool ``(B, N, D)`` with mask ``(B, N)`` to ``(B, D)``; zero for an item without real units."""
        return masked_mean(units, mask)


class MaxPooling(nn.Module):
    """Largest value of each feature over the real units."""

    def forward(self, units: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool ``(B, N, D)`` with mask ``(B, N)`` to ``(B, D)``; zero for an item without real units."""
        if mask is None:
            return units.amax(dim=1)
        largest = units.masked_fill(~mask.unsqueeze(-1), torch.finfo(units.dtype).min).amax(dim=1)
        return largest.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)


class GeneralizedPooling(nn.Module):
    """The Generalized Pooling Operator: each feature's values are sorted, then weighted by rank and summed.

    The weights of n units come from a bidirectional GRU over the positional encodings 1 to n, so that mean,
    maximum and everything between can be learnt. VSE-infinity (Chen et al., CVPR 2021), section 3.

    Args:
        encoding_dim: width of the positional encoding, even.
        hidden: width of the GRU's states.
        temperature: what the logits of the weights are divided by.
    """

    def __init__(self, encoding_dim: int = 32, hidden: int = 32, temperature: float = 0.1) -> None:
        super().__init__()
        self.encoding_dim = encoding_dim
        self.temperature = temperature
        self.gru = nn.GRU(encoding_dim, hidden, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(hidden, 1, bias=False)

    def forward(self, units: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool ``(B, N, D)`` with mask ``(B, N)`` to ``(B, D)``; zero for an item without real units."""
        batch, length = units.shape[:2]
        if mask is None:
            mask = torch.ones(batch, length, dtype=torch.bool, device=units.device)
        lengths, places = mask.sum(dim=1).unique(return_inverse=True)
        with torch.autocast(units.device.type, enabled=False):
            weights = self.weights(lengths, length).index_select(0, places)
            pooled: Tensor = _RankedSum.apply(at_least_float32(units), weights, mask)
        return pooled.to(units.dtype)

    def weights(self, lengths: Tensor, longest: int) -> Tensor:
        """Weights ``(L, longest)`` of the ranks, largest value first, for ``lengths`` ``(L,)``.

        Zero beyond a length; each row sums to 1 except that of length 0.
        """
        ranks = torch.arange(longest, device=lengths.device)
        dtype = self.linear.weight.dtype
        encodings = _positional_encoding(longest, self.encoding_dim, lengths.device).to(dtype)
        packed = pack_padded_sequence(
            encodings.expand(len(lengths), -1, -1),
            lengths.clamp(min=1).cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=longest)
        forwards, backwards = states.chunk(2, dim=-1)
        logits = self.linear((forwards + backwards) / 2).squeeze(-1) / self.temperature
        beyond = ranks >= lengths.unsqueeze(1)
        # The lowest finite value: a row of length 0 stays free of NaN on its way to zero.
        weights = at_least_float32(logits.masked_fill(beyond, torch.finfo(dtype).min)).softmax(dim=1)
        return weights.masked_fill(beyond, 0.0)


def _positional_encoding(length: int, dim: int, device: torch.device) -> Tensor:
    """Sines at even, cosines at odd features ``(length, dim)`` of positions from 0 (Vaswani et al., 2017)."""
    frequencies = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(10000.0) / dim))
    angles = torch.arange(length, device=device).unsqueeze(1) * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def _descending(values: Tensor) -> Tensor:
    """Order of the last axis, largest first; on a CPU numpy's vectorised sort is several times faster."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.argsort(-values.numpy(), axis=-1))
    return values.argsort(dim=-1, descending=True)


class _RankedSum(torch.autograd.Function):
    """Sort units ``(B, N, D)`` along N for each feature, multiply by the rank's weight ``(B, N)`` and sum."""

    @staticmethod
    def forward(ctx: Any, units: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
        # Sorting along a strided axis takes twice as long as copying the axis to the end first.
        values = units.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        padded = ~mask.unsqueeze(1)
        order = _descending(values.masked_fill_(padded, -torch.inf))
        # Padded values meet weights of zero, but would reach the weights' gradient.
        ordered = values.masked_fill_(padded, 0.0).gather(2, order)
        ctx.save_for_backward(order, ordered, weights)
        return torch.bmm(ordered, weights.to(ordered.dtype).unsqueeze(2)).squeeze(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        order, ordered, weights = ctx.saved_tensors
        grad_units = grad_weights = None
        if ctx.needs_input_grad[0]:
            shares = torch.empty_like(ordered)
            shares.scatter_(2, order, weights.to(ordered.dtype).unsqueeze(1).expand_as(ordered))
            grad_units = shares.mul_(grad_output.unsqueeze(2)).transpose(1, 2)
        if ctx.needs_input_grad[1]:
            with torch.autocast(ordered.device.type, enabled=False):
                grad_weights = torch.bmm(grad_output.unsqueeze(1), ordered).squeeze(1).to(weights.dtype)
        return grad_units, grad_weights, None


def build_pooling(kind: str, dim: int) -> nn.Module:
    """The pooling named ``kind``, called with units ``(B, N, D)`` and mask ``(B, N)``, returning ``(B, D)``.

    Args:
        kind: ``"mean"``, ``"max"`` or ``"gpo"``.
        dim: D, which every pooling keeps.

    Raises:
        CrossAlignError: no pooling has that name.
    """
    poolings: dict[str, type[nn.Module]] = {"mean": MeanPooling, "max": MaxPooling, "gpo": GeneralizedPooling}
    if kind not in poolings:
        raise CrossAlignError(f"pooling '{kind}' is unknown; choose one of {', '.join(sorted(poolings))}")
    return poolings[kind]()
