"""Scoring whole collections block by block: all images with all texts, or chosen pairs of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.masking import RealUnits
from crossalign.progress import tracked
from crossalign.scorers.base import Scorer
from crossalign.scorers.prepared import pieces

__all__ = ["PackedUnits", "score_blocks", "score_pairs"]


@dataclass(frozen=True)
class PackedUnits:
    """The real units of n images or texts one after the other, without padding.

    Attributes:
        units: ``(T, D)``.
        lengths: ``(n,)`` int64, units of each item.
    """

    units: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def of(cls, units: Tensor, mask: Tensor | None = None) -> PackedUnits:
        """From padded units ``(n, N, D)`` and their mask ``(n, N)``, true where real; ``None``: all of them."""
        if mask is None:
            lengths = torch.full((len(units),), units.shape[1], device=units.device)
            return cls(units.flatten(0, 1), lengths)
        return cls(RealUnits.of(units, mask).pack(units), mask.sum(dim=1))

    @classmethod
    def cat(cls, parts: Sequence[PackedUnits]) -> PackedUnits:
        """Collections one after the other, as batches of a tower come."""
        return cls(torch.cat([part.units for part in parts]), torch.cat([part.lengths for part in parts]))

    def reordered(self, index: Tensor) -> PackedUnits:
        """Items ``index (k,)``, one after the other."""
        lengths = self.lengths[index]
        starts = (self.lengths.cumsum(dim=0) - self.lengths)[index]
        first = torch.repeat_interleave(starts - (lengths.cumsum(dim=0) - lengths), lengths)
        return PackedUnits(self.units[first + torch.arange(len(first), device=first.device)], lengths)

    def padded(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Items ``index (k,)`` as ``(k, N, D)`` and their mask ``(k, N)``, ``None`` where all are as long."""
        lengths = self.lengths[index]
        starts = (self.lengths.cumsum(dim=0) - self.lengths)[index]
        places = torch.arange(max(int(lengths.max()), 1), device=index.device)
        mask = places < lengths.unsqueeze(1)
        rows = torch.where(mask, starts.unsqueeze(1) + places, 0)
        if len(self.units) == 0:
            return self.units.new_zeros(*rows.shape, self.units.shape[1]), mask
        units = self.units.index_select(0, rows.flatten()).unflatten(0, rows.shape)
        return units, None if bool(mask.all()) else mask


@torch.no_grad()
def score_blocks(
    scorer: Scorer[Any],
    images: PackedUnits,
    texts: PackedUnits,
    *,
    image_block: int = 256,
    text_block: int = 1024,
    progress: bool = False,
) -> Tensor:
    """Scores of every image with every text, in evaluation mode, where the scorer's parameters are.

    Items of like length come into the same block. Beside inputs and scores, memory holds the images once more,
    one block of texts, and what the scorer needs for a piece of a block.

    Args:
        scorer: one of this package.
        images: n images' regions, as the scorer takes them.
        texts: m texts' words.
        image_block: most images of a block.
        text_block: most texts of a block.
        progress: show a bar.

    Returns:
        ``(n, m)`` at least float32, on the CPU, in the order of the inputs.

    Raises:
        CrossAlignError: a block below 1, widths that do not fit.
    """
    for name, size in (("image_block", image_block), ("text_block", text_block)):
        if size < 1:
            raise CrossAlignError(f"{name} is {size}; give a positive number")
    dtype = torch.promote_types(images.units.dtype, torch.float32)
    scores = torch.empty(len(images), len(texts), dtype=dtype)
    rows = _blocks(images, image_block)
    columns = _blocks(texts, text_block)
    with _evaluating(scorer), tracked(columns, "score pairs", enabled=progress) as steps:
        seen = [scorer.prepare_images(*_on_device(scorer, images, row)) for row in rows]
        for column in steps:
            told = scorer.prepare_texts(*_on_device(scorer, texts, column))
            for row, block in zip(rows, seen, strict=True):
                scores[row.cpu().unsqueeze(1), column.cpu()] = scorer.score(block, told).cpu()
    return scores


@torch.no_grad()
def score_pairs(
    scorer: Scorer[Any],
    images: PackedUnits,
    texts: PackedUnits,
    image_index: Tensor,
    text_index: Tensor,
    *,
    block: int = 1024,
    progress: bool = False,
) -> Tensor:
    """Scores of chosen pairs, as for re-ranking the best of a fast search; in evaluation mode.

    Args:
        scorer: one of this package.
        images: n images' regions, as the scorer takes them.
        texts: m texts' words.
        image_index: ``(p,)`` int64, image of each pair.
        text_index: ``(p,)`` int64, text of each pair.
        block: most pairs of a block; pairs that share an image or a text best stand together.
        progress: show a bar.

    Returns:
        ``(p,)`` at least float32, on the CPU.

    Raises:
        CrossAlignError: a block below 1, indices that do not fit.
    """
    if block < 1:
        raise CrossAlignError(f"block is {block}; give a positive number")
    if image_index.shape != text_index.shape or image_index.dim() != 1:
        raise CrossAlignError(
            f"pairs: the indices are {tuple(image_index.shape)} and {tuple(text_index.shape)}; give (p,) twice"
        )
    for name, index, count in (("image", image_index, len(images)), ("text", text_index, len(texts))):
        if len(index) and not (index.min() >= 0 and index.max() < count):
            raise CrossAlignError(f"pairs: an {name} index is outside the {count} {name}s")
    dtype = torch.promote_types(images.units.dtype, torch.float32)
    scores = torch.empty(len(image_index), dtype=dtype)
    parts = list(pieces(len(image_index), block))
    with _evaluating(scorer), tracked(parts, "score pairs", enabled=progress) as steps:
        for part in steps:
            row, image_of_pair = image_index[part].to(images.units.device).unique(return_inverse=True)
            column, text_of_pair = text_index[part].to(texts.units.device).unique(return_inverse=True)
            seen, image_mask = _on_device(scorer, images, row)
            told, text_mask = _on_device(scorer, texts, column)
            scores[part] = scorer.score_pairs(
                scorer.prepare_images(seen, image_mask),
                scorer.prepare_texts(told, text_mask),
                image_of_pair.to(seen.device),
                text_of_pair.to(told.device),
            ).cpu()
    return scores


def _blocks(items: PackedUnits, most: int) -> list[Tensor]:
    """Positions of items of like length together."""
    order = items.lengths.argsort(stable=True)
    return [order[part] for part in pieces(len(items), most)]


def _on_device(scorer: Scorer[Any], items: PackedUnits, index: Tensor) -> tuple[Tensor, Tensor | None]:
    units, mask = items.padded(index)
    device = next(scorer.parameters(), units).device
    return units.to(device), None if mask is None else mask.to(device)


@contextmanager
def _evaluating(scorer: Scorer[Any]) -> Iterator[None]:
    training = scorer.training
    scorer.eval()
    try:
        yield
    finally:
        scorer.train(training)
