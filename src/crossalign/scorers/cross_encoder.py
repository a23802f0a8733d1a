"""A cross-encoder as a scorer: a text network that looks at an image, with a head for image-text matching."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossalign.errors import CrossAlignError
from crossalign.scorers.base import Scorer
from crossalign.scorers.prepared import Prepared, pieces, prepared_units

__all__ = ["CrossEncoder"]

_PAIRS = 64
"""Pairs that go through the network at a time."""


class CrossEncoder(Scorer[Prepared]):
    """Scores every image with every text by a network that reads both, as BLIP's image-text matching.

    Every pair costs a whole pass of the text network: it is made for re-ranking the best of a fast search. Units are
    the states of the image network and the embedded words, as the network takes them, not of unit norm.

    Args:
        matcher: regions ``(p, R, W)``, words ``(p, L, H)`` and their masks to scores ``(p,)``.
        pairs: that go through it at a time.
    """

    def __init__(self, matcher: nn.Module, pairs: int = _PAIRS) -> None:
        super().__init__()
        if pairs < 1:
            raise CrossAlignError(f"pairs is {pairs}; give a positive number")
        self.matcher = matcher
        self.pairs_at_once = pairs

    def prepare_images(self, regions: Tensor, mask: Tensor | None = None) -> Prepared:
        return prepared_units(regions, mask, "regions")

    def prepare_texts(self, words: Tensor, mask: Tensor | None = None) -> Prepared:
        return prepared_units(words, mask, "words")

    def prepare_gallery(self, images: Prepared) -> Prepared:
        return images

    def score(self, images: Prepared, texts: Prepared) -> Tensor:
        count = len(texts)
        every = torch.arange(len(images) * count, device=images.units.device)
        if not len(every):
            return images.units.new_zeros(len(images), count)
        return self.score_pairs(images, texts, every // count, every % count).view(len(images), count)

    def score_pairs(
        self,
        images: Prepared,
        texts: Prepared,
        image_index: Tensor | None = None,
        text_index: Tensor | None = None,
    ) -> Tensor:
        rows = torch.arange(len(images), device=images.units.device) if image_index is None else image_index
        columns = torch.arange(len(texts), device=texts.units.device) if text_index is None else text_index
        if len(rows) != len(columns):
            raise CrossAlignError(
                f"pairs: found {len(columns)} texts for another number of images; give one each"
            )
        if not len(rows):
            return images.units.new_zeros(0)
        seen, told = _mask(images), _mask(texts)
        # Texts of like length together: little is spent on padding.
        order = told.sum(dim=1)[columns].argsort(stable=True)
        scores = []
        for part in pieces(len(order), self.pairs_at_once):
            row, column = rows[order[part]], columns[order[part]]
            width = int(told[column].sum(dim=1).max())
            scores.append(
                self.matcher(images.units[row], texts.units[column, :width], seen[row], told[column, :width])
            )
        return torch.cat(scores).float().index_select(0, order.argsort())


def _mask(items: Prepared) -> Tensor:
    if items.mask is not None:
        return items.mask
    return torch.ones(items.units.shape[:2], dtype=torch.bool, device=items.units.device)
