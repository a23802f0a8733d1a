"""Batch normalisations of SGRAF whose statistics see real units only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MaskedBatchNorm", "TextBatchNorm"]


class MaskedBatchNorm(nn.Module):
    """Batch normalisation along the second axis whose statistics see real values only.

    A channel with fewer than two real values is normalised to zero and keeps its running statistics.

    Args:
        channels: C, the most channels an input has.
        momentum: weight of a batch in the running statistics.
        epsilon: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Values ``(n, c, D)`` of the first c channels; mask ``(n, c)`` or ``(n, 1)``, true where real."""
        used = slice(0, values.shape[1])
        mean, variance = self.running_mean[used], self.running_var[used]
        if self.training:
            mean, variance = self._statistics(values, mask, used)
        factor = self.weight[used] * (variance + self.epsilon).rsqrt()
        shift = self.bias[used] - mean * factor
        return values * factor.unsqueeze(1) + shift.unsqueeze(1)

    def _statistics(self, values: Tensor, mask: Tensor | None, used: slice) -> tuple[Tensor, Tensor]:
        items, channels, width = values.shape
        real = values.new_ones(items, channels, 1)
        if mask is not None:
            real = mask.expand(items, channels).unsqueeze(2).to(values.dtype)
            values = values.masked_fill(real == 0, 0.0)
        count = real.sum(dim=(0, 2)) * width
        mean = values.sum(dim=(0, 2)) / count.clamp(min=1)
        variance = ((values - mean.unsqueeze(1)) * real).square().sum(dim=(0, 2)) / count.clamp(min=1)
        with torch.no_grad():
            weight = self.momentum * (count > 1).to(mean.dtype)
            self.running_mean[used].lerp_(mean, weight)
            self.running_var[used].lerp_(variance * count / (count - 1).clamp(min=1), weight)
        return mean, variance


class TextBatchNorm(nn.Module):
    """Batch normalisation of one channel with statistics of each text on its own.

    Args:
        momentum: weight of a call in the running statistics.
        epsilon: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("running_mean", torch.zeros(1))
        self.register_buffer("running_var", torch.ones(1))
        self._seen: list[Tensor] = []

    def forward(self, values: Tensor) -> Tensor:
        """Values ``(n, m, N)`` of n images with m texts, N real similarities each."""
        if not self.training:
            mean, variance = self.running_mean, self.running_var
        else:
            variance, mean = torch.var_mean(values, dim=(0, 2), correction=0, keepdim=True)
            count = values.shape[0] * values.shape[2]
            unbiased = variance * (count / (count - 1))
            self._seen.append(torch.stack([mean.flatten(), unbiased.flatten()]).detach())
        factor = self.weight * (variance + self.epsilon).rsqrt()
        return values * factor + (self.bias - mean * factor)

    def begin(self) -> None:
        """Forget the texts seen so far."""
        self._seen = []

    def update(self) -> None:
        """Move the running statistics towards the mean over the texts seen in training since the beginning."""
        if self._seen:
            mean, variance = torch.cat(self._seen, dim=1).mean(dim=1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
