"""What units lack of their mean: where an encoder's units lie in a narrow cone, what they share tells nothing."""

from __future__ import annotations

from torch import Tensor

from crossalign.masking import RealUnits, at_least_float32

__all__ = ["centred_units"]

_SHORTEST = 1e-4
"""What is left of a unit that is all but the mean says nothing: it stays short, and so does its gradient."""


def centred_units(units: Tensor, mask: Tensor | None = None) -> Tensor:
    """Take from the units of a batch their mean, and give what is left unit norm.

    Embeddings of deep networks are known to lie in a cone (Ethayarajh, EMNLP 2019). There all regions are nearest to
    the same few concepts, and Sinkhorn's balance among nearly equal distances is next to an even spread.

    Args:
        units: ``(B, N, D)`` regions or words.
        mask: ``(B, N)`` bool, true where a unit is real; only these make the mean, which has no gradient. ``None``: all
            of them.

    Returns:
        ``(B, N, D)``, at least float32; zero where there is padding, and where a unit is the mean itself.
    """
    real = RealUnits.of(units, mask)
    rows = real.pack(at_least_float32(units))
    rest = rows - rows.detach().sum(dim=0) / max(len(rows), 1)
    return real.unpack(rest / rest.norm(dim=-1, keepdim=True).clamp_min(_SHORTEST))
