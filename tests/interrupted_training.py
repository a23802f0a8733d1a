"""A training that breaks off where a test wants it to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from crossalign.training import trainer

__all__ = ["interrupted"]


class InterruptionError(Exception):
    """What ends the training."""


@contextmanager
def interrupted(call: int, function: str = "save_checkpoint") -> Iterator[None]:
    """A training in this block ends after a call of one of the loop's functions, which must come.

    Args:
        call: counted from 1.
        function: ``save_checkpoint``, or ``check_finite``, which is called twice a step, before its weights change.
    """
    real, calls = getattr(trainer, function), 0

    def counted(*arguments: Any) -> None:
        nonlocal calls
        real(*arguments)
        calls += 1
        if calls == call:
            raise InterruptionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, function, counted)
        with pytest.raises(InterruptionError):
            yield
