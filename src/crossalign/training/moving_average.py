"""An exponential moving average of a model's weights beside the ones that train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from crossalign.recipe import EMASettings

__all__ = ["MovingAverage"]


class MovingAverage:
    """After every step ``average = decay * average + (1 - decay) * weights``; it begins as the weights after a step.

    Averaged is what training moves: trained parameters, and floating-point buffers, which are batch norms' running
    statistics. Those are averaged with the same decay and not copied, as the statistics of the last weights are not
    those of weights that lie many steps back. Frozen weights are the same in both, and counters stay the model's own.

    Polyak and Juditsky (SIAM J. Control Optim. 1992); Tarvainen and Valpola (Mean Teacher, NeurIPS 2017).

    Every process averages its own weights, which are the same on all of them.

    Args:
        model: its weights after each step are averaged.
        settings: None: nothing is averaged, and :meth:`applied` changes nothing.
    """

    def __init__(self, model: nn.Module, settings: EMASettings | None) -> None:
        self.settings = settings
        self._moving: dict[str, Tensor] = {}
        self._averages: dict[str, Tensor] = {}
        if settings is not None:
            self._moving = {name: value for name, value in model.named_parameters() if value.requires_grad}
            self._moving |= {
                name: value for name, value in model.named_buffers() if value.is_floating_point()
            }

    @torch.no_grad()
    def update(self, epoch: int) -> None:
        """Take the weights after a step of ``epoch``, counted from 0, into the average."""
        if self.settings is None or epoch < self.settings.start_epoch:
            return
        if not self._averages:
            self._averages = {name: value.detach().clone() for name, value in self._moving.items()}
            return
        # Not a * average + b * weight: rounding would move what stays as it is.
        torch._foreach_lerp_(
            list(self._averages.values()), list(self._moving.values()), 1 - self.settings.decay
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights, where the average has begun; afterwards its own again."""
        kept = {name: self._moving[name].detach().clone() for name in self._averages}
        self._write(self._averages)
        try:
            yield
        finally:
            self._write(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the names of the weights; empty before they begin."""
        return self._averages

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from averages that :meth:`state_dict` gave."""
        self._averages = {
            name: value.to(self._moving[name].device, copy=True) for name, value in state.items()
        }

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._moving[name].copy_(value)
