"""Several processes that work on one batch: what each has of it, put together with its gradients.

One process a device, started by ``torchrun``. Alone, everything here gives back what it is given.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from crossalign.errors import CrossAlignError
from crossalign.structures import padded

__all__ = [
    "ALONE",
    "Processes",
    "each_by_itself",
    "is_first_process",
    "joined_processes",
    "several_processes",
    "summed_over_processes",
]

T = TypeVar("T")

# The others wait so long for a process that evaluates, and for one that has stopped answering.
PATIENCE = timedelta(hours=2)
# How backends tell that another process is gone.
LOST = re.compile(
    "connection|peer|timed? ?out|broken pipe|socket|rendezvous|store|remote process", re.IGNORECASE
)


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    What every process computes from gathered values is the same on all of them; a loss is the same number, counted
    once a process. So gradients that come back through :meth:`gather` are ``count`` times those of one process, and
    :meth:`average_gradients` divides by it.

    Attributes:
        rank: number of this one, from 0.
        count: how many there are.
        device_index: number of its device on this machine.
    """

    rank: int = 0
    count: int = 1
    device_index: int = 0

    @property
    def first(self) -> bool:
        """Whether this one writes files and messages."""
        return self.rank == 0

    def share(self, items: int) -> slice:
        """Which of ``items`` are this process's; shares differ by one at most."""
        return slice(items * self.rank // self.count, items * (self.rank + 1) // self.count)

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows ``(B_0 + B_1 + ..., N, ...)`` of all processes, in their order; gradients find their way back.

        Axes after the first are padded with zeros to the longest of all processes.
        """
        if self.count == 1:
            return tensor
        shapes = self._shapes(tensor)
        longest = shapes[:, 1:].amax(dim=0).tolist()
        gathered: Tensor = _Gather.apply(padded(tensor, longest), shapes[:, 0].tolist(), self.rank)
        return gathered

    def _shapes(self, tensor: Tensor) -> Tensor:
        own = torch.tensor(tensor.shape, device=tensor.device)
        shapes = [torch.empty_like(own) for _ in range(self.count)]
        with _others_may_end():
            dist.all_gather(shapes, own)
        return torch.stack(shapes)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the mean of all processes' gradients; one that none of them has stays ``None``."""
        if self.count == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if not trained:
            return
        there = torch.tensor(
            [float(parameter.grad is not None) for parameter in trained], device=trained[0].device
        )
        with _others_may_end():
            dist.all_reduce(there)
            for parameter, processes in zip(trained, there.tolist(), strict=True):
                if processes == 0:
                    continue
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
                parameter.grad.div_(self.count)

    def same_start(self, module: nn.Module) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.count == 1:
            return
        with _others_may_end():
            for value in module.state_dict().values():
                dist.broadcast(value, 0)

    def agree(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on the first process, on all of them; the others only wait for it.

        Raises:
            CrossAlignError: the first process did, with its message.
        """
        if self.count == 1:
            return work()
        outcome: list[Any] = [None, None]
        failure: BaseException | None = None
        if self.first:
            try:
                outcome[0] = work()
            except CrossAlignError as error:
                failure, outcome[1] = error, str(error)
        with _others_may_end():
            dist.broadcast_object_list(outcome, 0)
        if failure is not None:
            raise failure
        if outcome[1] is not None:
            raise CrossAlignError(outcome[1])
        result: T = outcome[0]
        return result

    def collect(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with _others_may_end():
            dist.all_gather_object(values, value)
        return values


ALONE = Processes()


class _Gather(torch.autograd.Function):
    """Rows of all processes; backward sums what each of them makes of these rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rows: list[int], rank: int) -> Tensor:
        ctx.start, ctx.length = sum(rows[:rank]), rows[rank]
        # No backend sends truth values.
        sent = tensor.detach().to(torch.uint8) if tensor.dtype == torch.bool else tensor.detach()
        most = max(rows)
        sent = F.pad(sent, [0, 0] * (sent.dim() - 1) + [0, most - len(sent)]).contiguous()
        parts = [torch.empty_like(sent) for _ in rows]
        with _others_may_end():
            dist.all_gather(parts, sent)
        gathered = torch.cat([part[:length] for part, length in zip(parts, rows, strict=True)])
        return gathered.to(tensor.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        total = grad_output.contiguous().clone()
        with _others_may_end():
            dist.all_reduce(total)
        return total.narrow(0, ctx.start, ctx.length), None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone()
        with _others_may_end():
            dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        total = grad_output.contiguous().clone()
        with _others_may_end():
            dist.all_reduce(total)
        return total


def several_processes() -> bool:
    """Whether this process has joined others, and they do the same at this moment; see :func:`each_by_itself`."""
    return _TOGETHER and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


_TOGETHER = True


@contextmanager
def each_by_itself() -> Iterator[None]:
    """Work of which one process may have more than another: nothing inside waits for the others."""
    global _TOGETHER
    before, _TOGETHER = _TOGETHER, False
    try:
        yield
    finally:
        _TOGETHER = before


def summed_over_processes(tensor: Tensor) -> Tensor:
    """The sum of all processes' tensors of one shape, with gradients; alone, the tensor itself."""
    if not several_processes():
        return tensor
    total: Tensor = _Sum.apply(tensor)
    return total


def is_first_process() -> bool:
    """Whether this process was started alone, or as the first of those that ``torchrun`` has started.

    For messages before they have joined and after they have parted.
    """
    return int(os.environ.get("WORLD_SIZE", "1")) == 1 or int(os.environ.get("RANK", "0")) == 0


@contextmanager
def joined_processes(accelerator: str = "auto") -> Iterator[Processes]:
    """Join the processes that ``torchrun`` has started; a process that was started alone stays so.

    Args:
        accelerator: ``cpu``, or what may be a GPU, as in a recipe's ``training.accelerator``.

    Raises:
        CrossAlignError: there are more processes than GPUs on this machine, or the others do not answer.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    index = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    if on_gpu and index >= torch.cuda.device_count():
        raise CrossAlignError(
            f"process {index} of this machine has no GPU, there are {torch.cuda.device_count()}; start as many "
            "processes (--nproc-per-node)"
        )
    if on_gpu:
        torch.cuda.set_device(index)
    with _others_may_end():
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), index)
    finally:
        dist.destroy_process_group()


@contextmanager
def _others_may_end() -> Iterator[None]:
    """One line in place of a backend's many where another process is gone."""
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        # Other faults, such as memory that runs out, keep their own words.
        if not LOST.search(str(error)):
            raise
        raise CrossAlignError(
            "another process of this training has ended or does not answer; its own message says why. Start all of "
            "them again with --resume auto"
        ) from error
