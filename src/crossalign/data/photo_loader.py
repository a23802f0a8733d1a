"""Photos decoded by several processes, in batches, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from crossalign.data.photos import open_photo
from crossalign.errors import CrossAlignError

__all__ = ["PhotoBatch", "Preparation", "photo_batches"]

Preparation = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class PhotoBatch:
    """B photos.

    Attributes:
        positions: of the photos among the paths.
        sizes: width and height of each photo in pixels, the right way up.
        prepared: for each preparation its tensors, stacked.
    """

    positions: list[int]
    sizes: list[tuple[int, int]]
    prepared: list[Tensor]


@dataclass(frozen=True)
class _Photo:
    position: int
    size: tuple[int, int]
    prepared: list[Tensor]
    problem: str | None = None


class _Photos(Dataset[_Photo]):
    def __init__(self, paths: Sequence[Path], preparations: Sequence[Preparation]) -> None:
        self.paths = paths
        self.preparations = preparations

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> _Photo:
        # A worker's exception would arrive with its traceback in the message: the problem travels as a value.
        path = self.paths[position]
        try:
            photo = open_photo(path)
        except CrossAlignError as error:
            return _Photo(position, (0, 0), [], str(error))
        except Exception as error:  # decoders of damaged files raise nearly anything
            reason = " ".join(str(error).split()) or type(error).__name__
            return _Photo(position, (0, 0), [], f"{path}: not a readable photo ({reason})")
        return _Photo(position, photo.size, [prepare(photo) for prepare in self.preparations])


def photo_batches(
    paths: Sequence[Path],
    preparations: Sequence[Preparation],
    *,
    start: int = 0,
    batch_size: int = 32,
    workers: int = 0,
) -> Iterator[PhotoBatch]:
    """Decode photos from position ``start`` on and apply every preparation to each.

    Raises:
        CrossAlignError: a photo is missing or broken; the message names it.
    """
    loader = DataLoader(
        Subset(_Photos(paths, preparations), range(start, len(paths))),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
    )
    for batch in loader:
        if isinstance(batch, str):
            raise CrossAlignError(batch)
        yield batch


def _collate(photos: list[_Photo]) -> PhotoBatch | str:
    for photo in photos:
        if photo.problem is not None:
            return photo.problem
    return PhotoBatch(
        positions=[photo.position for photo in photos],
        sizes=[photo.size for photo in photos],
        prepared=[torch.stack(tensors) for tensors in zip(*(p.prepared for p in photos), strict=True)],
    )
