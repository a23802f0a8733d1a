"""Values of every token of a split's captions, made once and handed out batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["TokenTable"]


@dataclass(frozen=True)
class TokenTable:
    """Ragged values, caption after caption.

    Attributes:
        values: ``(T, ...)`` of all T tokens.
        first: ``(captions + 1,)`` int64, where each caption begins, and the end.
    """

    values: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, captions: Sequence[np.ndarray]) -> TokenTable:
        """Of one ``(W_i, ...)`` array a caption; at least one."""
        lengths = [len(caption) for caption in captions]
        return cls(np.concatenate(captions), np.concatenate([[0], np.cumsum(lengths)]))

    def batch(self, captions: np.ndarray, width: int) -> Tensor:
        """``(B, width, ...)`` of the captions at these positions; zero behind a caption's last token."""
        places = self.first[captions][:, None] + np.arange(width)
        real = places < self.first[captions + 1][:, None]
        found = np.zeros((len(captions), width, *self.values.shape[1:]), self.values.dtype)
        found[real] = self.values[places[real]]
        return torch.from_numpy(found)
