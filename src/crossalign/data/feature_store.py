"""Reading features from disk: memory-mapped, gathered by position, never loaded whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crossalign.data.feature_layout import BOXES, FEATURES, IDS, OFFSETS, Layout
from crossalign.errors import CrossAlignError
from crossalign.files import read_json

__all__ = ["FeatureBatch", "FeatureStore"]


@dataclass(frozen=True)
class FeatureBatch:
    """Features of n ids, padded to the longest of them.

    Attributes:
        features: ``(n, N, D)`` float32, zero where there is no unit.
        mask: ``(n, N)`` bool, true where a unit is real.
        boxes: ``(n, N, 4)`` float32 corners ``x0 y0 x1 y1`` relative to the image, in ``[0, 1]``; None where
            the store has none.
    """

    features: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    boxes: npt.NDArray[np.float32] | None


class FeatureStore:
    """Features of many ids on disk: the same number of units for each id, or a ragged number.

    The files are mapped on first use in each process, so a store is cheap to open and to hand to
    worker processes.
    """

    def __init__(self, folder: Path, layout: Layout, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.layout = layout
        self.dim = layout.dim
        self.dtype = layout.numpy_dtype
        self.ragged = layout.units is None

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a finished store.

        Raises:
            CrossAlignError: there is no store, it is not finished, or it is damaged.
        """
        folder = Path(folder)
        layout, manifest = Layout.read(folder)
        layout.check_files(folder)
        return cls(folder, layout, manifest)

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping cannot travel to another process; the place can.
        return type(self), (self.folder, self.layout, self.manifest)

    def __len__(self) -> int:
        return self.layout.count

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids in the order of the features."""
        return tuple(read_json(self.folder / IDS))

    @cached_property
    def _position_of(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.ids)}

    @cached_property
    def _features(self) -> Tensor:
        return self._map(FEATURES, self.dtype, self.dim)

    @cached_property
    def _boxes(self) -> Tensor:
        return self._map(BOXES, np.dtype("<f4"), 4)

    @cached_property
    def _offsets(self) -> npt.NDArray[np.int64]:
        return np.asarray(np.load(self.folder / OFFSETS, mmap_mode="r", allow_pickle=False))

    def _map(self, name: str, dtype: np.dtype, width: int) -> Tensor:
        units = self.layout.total_units(self.folder)
        if units == 0:
            return torch.empty(0, width)  # an empty file cannot be mapped
        # A private mapping: PyTorch wants to be allowed to write, and nothing written could reach the file.
        return torch.from_numpy(np.memmap(self.folder / name, dtype, mode="c", shape=(units, width)))

    def index(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Positions ``(len(ids),)`` of ids, which may repeat.

        Raises:
            CrossAlignError: an id has no features; the message names the first one and counts all of them.
        """
        known = self._position_of
        missing = dict.fromkeys(name for name in ids if name not in known)
        if missing:
            raise CrossAlignError(
                f"{self.folder}: id '{next(iter(missing))}' has no features "
                f"({len(missing)} of {len(set(ids))} missing); {self._mend()}"
            )
        return np.fromiter((known[name] for name in ids), np.int64, len(ids))

    def _mend(self) -> str:
        """What to do about ids without features."""
        teacher = self.manifest.get("teacher")
        if teacher is None:
            return "run 'crossalign extract' again for this collection"
        if teacher.get("library") == "published":
            # The same file again would leave the same gaps.
            return (
                f"the published file {teacher.get('name')} lacks them; run 'crossalign teach' into another folder with "
                "a file that has them, or with a network"
            )
        return "run 'crossalign teach' again for this collection"

    def unit_counts(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Units ``(n,)`` of the ids at some positions, without reading their features."""
        chosen = self._checked(positions)
        if self.layout.units is not None:
            return np.full(len(chosen), self.layout.units, np.int64)
        return self._offsets[chosen + 1] - self._offsets[chosen]

    def batch(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> FeatureBatch:
        """The features of the ids at some positions, which may repeat and stand in any order.

        Raises:
            IndexError: a position is outside the store.
        """
        chosen = self._checked(positions)
        counts = self.unit_counts(chosen)
        width = int(counts.max(initial=0))
        starts = self._offsets[chosen] if self.layout.units is None else chosen * self.layout.units
        mask = np.arange(width) < counts[:, None]
        return FeatureBatch(
            features=_gather_features(self._features, starts, counts, width),
            mask=mask,
            boxes=_gather_boxes(self._boxes, starts, mask) if self.layout.boxes else None,
        )

    def vectors(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The one vector of each id at some positions, ``(n, D)`` float32; of a store of one unit an id.

        Raises:
            IndexError: a position is outside the store.
            ValueError: the store has more than one unit an id.
        """
        if self.layout.units != 1:
            raise ValueError(f"{self.folder}: has {self.layout.units or 'varying'} units an id, not one")
        # One gather: id by id, as regions are read, costs more than the few bytes of a vector.
        rows = self._features.index_select(0, torch.from_numpy(self._checked(positions)))
        return np.asarray(rows.float().numpy())

    def _checked(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        chosen = np.asarray(positions, dtype=np.int64).reshape(-1)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(
                f"{self.folder}: positions are 0 to {len(self) - 1}, got {chosen.min()} to {chosen.max()}"
            )
        return chosen


def _gather_features(
    rows: Tensor, starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], width: int
) -> npt.NDArray[np.float32]:
    # NumPy asks for huge pages: that makes fresh memory several times cheaper; PyTorch widens float16 several
    # times faster, and id by id it needs no second copy.
    gathered = np.empty((len(starts), width, rows.shape[1]), np.float32)
    targets = torch.from_numpy(gathered).unbind(0)
    for target, start, count in zip(targets, starts.tolist(), counts.tolist(), strict=True):
        if count < width:
            target[count:].zero_()
            target = target[:count]
        target.copy_(rows[start : start + count])
    return gathered


def _gather_boxes(
    rows: Tensor, starts: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    # Boxes are too small for a copy each: rows beyond an id's own are read too, and then cleared.
    places = starts[:, None] + np.arange(mask.shape[1])
    return rows.numpy()[np.where(mask, places, 0)] * mask[:, :, None]
