"""Devices and number formats: Fabric by the recipe's settings, and the overflows of float16."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.processes import ALONE, Processes
from crossalign.recipe import TrainingSettings

__all__ = ["Overflow", "build_fabric"]


def build_fabric(settings: TrainingSettings, processes: Processes = ALONE) -> Fabric:
    """Device and precision as the recipe asks; of several processes, each has a device of its own.

    Raises:
        CrossAlignError: there is no such device, or it cannot compute in this precision.
    """
    precision: Any = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}.get(settings.precision)
    devices: Any = 1
    if processes.count > 1 and settings.accelerator != "cpu" and torch.cuda.is_available():
        devices = [processes.device_index]
    try:
        fabric = Fabric(accelerator=settings.accelerator, devices=devices)
    except RuntimeError:
        raise CrossAlignError(
            f"training.accelerator: {settings.accelerator} is not available here; use auto or cpu"
        ) from None
    on_gpu = fabric.device.type == "cuda"
    if precision is None:
        precision = "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
    if precision == "16-mixed" and not on_gpu:
        raise CrossAlignError("training.precision: fp16 needs a GPU; use auto, bf16 or 32")
    return Fabric(accelerator=settings.accelerator, devices=devices, precision=precision)


class Overflow:
    """Tells a gradient that merely overflowed float16 from one that is broken.

    float16's losses are scaled up; where a scaled gradient overflows, the optimiser leaves the step out and the
    scale is halved, so a few such steps are normal. So many in a row that the scale is nearly gone are not.

    Args:
        fabric: whose precision may have a scaler.
        patience: steps in a row that may overflow.
    """

    def __init__(self, fabric: Fabric, patience: int = 30) -> None:
        self._scaled = getattr(fabric.strategy.precision, "scaler", None) is not None
        self.patience = patience
        self.count = 0

    def check(self, norm: Tensor) -> bool:
        """Whether this step's gradient, of norm ``norm``, overflowed and its step is left out."""
        overflowed = self._scaled and not bool(torch.isfinite(norm))
        self.count = self.count + 1 if overflowed else 0
        return overflowed and self.count <= self.patience
