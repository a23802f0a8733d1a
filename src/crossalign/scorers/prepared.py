"""Images and texts as scorers take them, and texts of equal length together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.masking import at_least_float32

__all__ = ["Prepared", "TextGroup", "pieces", "prepared_units"]


_CANCELLED, _TINY = 3e-4, 1e-12
"""Below the first part of its units' weighted norms, the length of a weighted sum is rounding and counts as that
part; the second keeps the part from being zero."""


@dataclass(frozen=True)
class Prepared:
    """Images or texts made ready: what an item does not share with its partner is computed once.

    Attributes:
        units: ``(n, N, D)``, at least float32; padded regions are zero.
        mask: ``(n, N)`` bool, at least one true an item; ``None``: all units are real.
        summary: ``(n, D)`` global vector, where the scorer has one.
        gram: ``(n, N + 1, N)`` inner products of an item's units and, in the last row, a small part of their norms;
            for the side that is looked at.
        reciprocals: ``(n, N)`` one over the norms of the units, zero for a zero unit; for the side that looks.
        columns: ``(N * n, D)`` units, the first of all items in front; for the side that looks. Rows of an item
            do not stand together, so :meth:`rows` leaves them out.
    """

    units: Tensor
    mask: Tensor | None = None
    summary: Tensor | None = None
    gram: Tensor | None = None
    reciprocals: Tensor | None = None
    columns: Tensor | None = None

    def __len__(self) -> int:
        return len(self.units)

    def rows(self, index: Tensor | slice) -> Prepared:
        """The items at ``index``, repeated where an index repeats."""
        parts = (self.mask, self.summary, self.gram, self.reciprocals)
        return Prepared(self.units[index], *(None if part is None else part[index] for part in parts))

    def with_gram(self) -> Prepared:
        """The same with ``gram``."""
        if self.gram is not None:
            return self
        products = torch.bmm(self.units, self.units.transpose(1, 2))
        norms = torch.linalg.vector_norm(self.units.detach(), dim=2)
        return replace(
            self, gram=torch.cat([products, _CANCELLED * norms.clamp_(min=_TINY).unsqueeze(1)], dim=1)
        )

    def with_reciprocals(self) -> Prepared:
        """The same with ``reciprocals``."""
        if self.reciprocals is not None:
            return self
        norms = torch.linalg.vector_norm(self.units, dim=2)
        return replace(self, reciprocals=1.0 / torch.where(norms > 0, norms, torch.inf))

    def with_columns(self) -> Prepared:
        """The same with ``columns``."""
        return replace(self, columns=self.units.transpose(0, 1).flatten(0, 1))


def prepared_units(units: Tensor, mask: Tensor | None, name: str, *, zeros: bool = True) -> Prepared:
    """Units ``(n, N, D)`` raised to float32.

    Args:
        name: what errors call the units.
        zeros: put zeros in the place of all padded units; otherwise only into items without a real one.

    Raises:
        CrossAlignError: shapes that do not fit.
    """
    if units.dim() != 3 or units.shape[1] == 0:
        raise CrossAlignError(f"{name}: found the shape {tuple(units.shape)}; give (items, units, width)")
    units = at_least_float32(units)
    if mask is None:
        return Prepared(units)
    if mask.shape != units.shape[:2]:
        raise CrossAlignError(
            f"{name}: their mask is {tuple(mask.shape)}; give {tuple(units.shape[:2])}, one value a unit"
        )
    if mask.all():
        return Prepared(units)
    empty = ~mask.any(dim=1, keepdim=True)
    if zeros or empty.any():
        units = units.masked_fill(~mask.unsqueeze(-1), 0.0)
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return Prepared(units, mask | (first & empty))


@dataclass(frozen=True)
class TextGroup:
    """Texts of exactly L words: ``items (m,)`` among the texts, ``places (m, L)`` of their words in order."""

    items: Tensor
    places: Tensor

    @property
    def length(self) -> int:
        """L."""
        return self.places.shape[1]

    @staticmethod
    def all_of(texts: Prepared) -> list[TextGroup]:
        """The texts in groups of equal length, so that nothing is spent on padding."""
        count, width = texts.units.shape[:2]
        device = texts.units.device
        if count == 0:
            return []
        if texts.mask is None:
            places = torch.arange(count * width, device=device).view(count, width)
            return [TextGroup(torch.arange(count, device=device), places)]
        lengths = texts.mask.sum(dim=1)
        real_first = (~texts.mask).to(torch.int8).argsort(dim=1, stable=True)
        places = real_first + torch.arange(0, count * width, width, device=device).unsqueeze(1)
        found, counts = lengths.sort().values.unique_consecutive(return_counts=True)
        groups = lengths.argsort(stable=True).split(counts.tolist())
        return [
            TextGroup(items, places[items, :length])
            for length, items in zip(found.tolist(), groups, strict=True)
        ]

    def taken_from(self, texts: Prepared, part: slice) -> Prepared:
        """Some texts of the group, words ``(m, L, D)`` without padding; in memory, all first words stand in front."""
        items, places = self.items[part], self.places[part].T
        words = texts.units.flatten(0, 1).index_select(0, places.flatten()).unflatten(0, places.shape)
        summary = None if texts.summary is None else texts.summary.index_select(0, items)
        return Prepared(words.transpose(0, 1), None, summary)


def pieces(count: int, most: int) -> Iterator[slice]:
    """Slices of at most ``most`` of ``count`` items, as even as can be."""
    number = -(-count // most)
    for piece in range(number):
        yield slice(piece * count // number, (piece + 1) * count // number)
