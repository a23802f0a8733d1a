"""The options that a checkpoint was trained with: those that no setting stands for are refused, never guessed."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Mapping
from typing import NoReturn

from crossalign.convert.checkpoint import Checkpoint
from crossalign.errors import CrossAlignError

__all__ = ["choice_option", "positive_option", "refuse_option", "refuse_options"]


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2


def refuse_options(
    checkpoint: Checkpoint,
    *,
    falsy: tuple[str, ...] = (),
    truthy: tuple[str, ...] = (),
    only: Mapping[str, object] | None = None,
) -> None:
    """Refuse options of the training script that change what the encoders do and that no setting here stands for.

    Args:
        falsy: options that must not be on.
        truthy: options that must not be off.
        only: options that must have this value where they are told.

    Raises:
        CrossAlignError: one of them is, or the similarity is not the inner product.
    """
    options = checkpoint.options
    wrong = [name for name in falsy if options.get(name)]
    wrong += [name for name in truthy if not options.get(name, True)]
    wrong += [
        name
        for name, value in {"measure": "cosine", **(only or {})}.items()
        if options.get(name, value) != value
    ]
    if wrong:
        refuse_option(checkpoint, wrong[0])


def choice_option(checkpoint: Checkpoint, name: str, choices: Collection[str]) -> str:
    """An option that has to be told, one of ``choices``.

    Raises:
        CrossAlignError: it is not.
    """
    value = _told(checkpoint, name)
    if not isinstance(value, str) or value not in choices:
        refuse_option(checkpoint, name)
    return value


def positive_option(checkpoint: Checkpoint, name: str) -> float:
    """An option that has to be told, a positive number.

    Raises:
        CrossAlignError: it is not.
    """
    value = _told(checkpoint, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        refuse_option(checkpoint, name)
    return float(value)


def refuse_option(checkpoint: Checkpoint, name: str) -> NoReturn:
    """Refuse a checkpoint for the value of one of its options.

    Raises:
        CrossAlignError: always.
    """
    # Cut short: the value is whatever the file holds.
    value = " ".join(_SHORT.repr(checkpoint.options[name]).split())
    raise CrossAlignError(
        f"{checkpoint.source}: trained with {name}={value}, for which there is no setting here"
    )


def _told(checkpoint: Checkpoint, name: str) -> object:
    if name not in checkpoint.options:
        raise CrossAlignError(
            f"{checkpoint.source}: its options ('opt') do not tell {name}, without which its scores are not known; "
            "give the whole file that the training script saved"
        )
    return checkpoint.options[name]
