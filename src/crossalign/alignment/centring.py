"""What units lack of their mean: where an encoder's units lie in a narrow cone, what they share tells nothing."""

from __future__ import annotations

from torch import Tensor

from crossalign.masking import RealUnits, at_least_float32
from crossalign.normalization import unit_norm

__all__ = ["centred_units"]


def centred_units(units: Tensor, mask: Tensor) -> Tensor:
    """Take from the units of a batch their mean, and give what is left unit norm.

    Embeddings of deep networks are known to lie in a cone (Ethayarajh, EMNLP 2019). There all regions are nearest to
    the same few concepts, and Sinkhorn's balance among nearly equal distances is next to an even spread.

    Args:
        units: ``(B, N, D)`` regions or words.
        mask: ``(B, N)`` bool, true where a unit is real; only these make the mean, which has no gradient.

    Returns:
        ``(B, N, D)``, at least float32; padding has no meaning.
    """
    units = at_least_float32(units)
    real = RealUnits.of(units, mask)
    return unit_norm(units - real.pack(units.detach()).mean(dim=0))
