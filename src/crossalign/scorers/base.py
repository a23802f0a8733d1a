"""What all scorers share: inputs made ready once, pairs scored in pieces that fit the cache."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from crossalign.errors import CrossAlignError
from crossalign.scorers.prepared import Prepared, TextGroup, pieces, prepared_units
from crossalign.scorers.recompute import recomputed_scores

__all__ = ["AttentionScorer", "Scorer"]

_GATHERED = {True: 2**22, False: 2**26}
"""Values of the images that are put beside their texts at a time where pairs are scored, on a CPU and elsewhere."""

P = TypeVar("P")


class Scorer(nn.Module, ABC, Generic[P]):
    """A model that looks at an image's regions and a text's words together to score the pair.

    Regions and words are the towers' units of unit norm, as published; the scorers do not normalise them.
    Everything is computed in float32 (float64 for float64 inputs), also under autocast. An image without a real
    region, or a text without a real word, counts as one whose only unit is the zero vector.

    Without gradients, memory beyond inputs and scores is bounded, whatever their number. With gradients, the
    backward pass computes those pairs again whose gradient is not zero, and no others: with hardest negatives
    few are, so that a step costs little more than its scores. ``keep_graph`` keeps what the forward pass
    computed instead, which takes memory for all pairs and less time where most pairs have a gradient.
    """

    keep_graph: bool = False

    def forward(
        self,
        regions: Tensor,
        words: Tensor,
        region_mask: Tensor | None = None,
        word_mask: Tensor | None = None,
    ) -> Tensor:
        """Scores ``(n, m)`` of every image with every text.

        Args:
            regions: ``(n, R, D)`` unit norm.
            words: ``(m, W, D)`` unit norm.
            region_mask: ``(n, R)`` bool, true where a region is real; ``None``: all of them.
            word_mask: ``(m, W)`` bool, true where a word is real; ``None``: all of them.

        Raises:
            CrossAlignError: shapes that do not fit.
        """
        return self.score(self.prepare_images(regions, region_mask), self.prepare_texts(words, word_mask))

    def pairs(
        self,
        regions: Tensor,
        words: Tensor,
        region_mask: Tensor | None = None,
        word_mask: Tensor | None = None,
    ) -> Tensor:
        """Scores ``(p,)`` of image i with text i alone, as for re-ranking.

        Args:
            regions: ``(p, R, D)`` unit norm.
            words: ``(p, W, D)`` unit norm.
            region_mask: ``(p, R)`` bool; ``None``: all real.
            word_mask: ``(p, W)`` bool; ``None``: all real.

        Raises:
            CrossAlignError: shapes that do not fit, or not as many images as texts.
        """
        return self.score_pairs(
            self.prepare_images(regions, region_mask), self.prepare_texts(words, word_mask)
        )

    @abstractmethod
    def prepare_images(self, regions: Tensor, mask: Tensor | None = None) -> P:
        """Regions ``(n, R, D)`` with their mask ``(n, R)``, once for all texts."""

    @abstractmethod
    def prepare_texts(self, words: Tensor, mask: Tensor | None = None) -> P:
        """Words ``(m, W, D)`` with their mask ``(m, W)``, once for all images."""

    @abstractmethod
    def prepare_gallery(self, images: P) -> P:
        """Prepared images with all that no text changes, for a gallery that is asked again and again."""

    @abstractmethod
    def score(self, images: P, texts: P) -> Tensor:
        """Scores ``(n, m)`` of every image with every text."""

    @abstractmethod
    def score_pairs(
        self, images: P, texts: P, image_index: Tensor | None = None, text_index: Tensor | None = None
    ) -> Tensor:
        """Scores ``(p,)`` of pairs: image i with text i, or ``image_index (p,)`` with ``text_index (p,)``."""


class AttentionScorer(Scorer[Prepared]):
    """A scorer in which units attend to units, computed in pieces of some images with some texts of equal length."""

    def prepare_images(self, regions: Tensor, mask: Tensor | None = None) -> Prepared:
        return prepared_units(regions, mask, "regions")

    def prepare_texts(self, words: Tensor, mask: Tensor | None = None) -> Prepared:
        return prepared_units(words, mask, "words", zeros=False)

    def prepare_gallery(self, images: Prepared) -> Prepared:
        with torch.autocast(images.units.device.type, enabled=False):
            return self._ready_images(images)

    def score(self, images: Prepared, texts: Prepared) -> Tensor:
        self._check(images, texts)
        with torch.autocast(images.units.device.type, enabled=False):
            if not torch.is_grad_enabled() or not self._needs_gradient(images, texts):
                with torch.no_grad():
                    return self.score_in_pieces(images, texts)
            if self.keep_graph or not self._independent:
                return self._score_at_once(images, texts)
            return recomputed_scores(self, images, texts)

    def score_pairs(
        self,
        images: Prepared,
        texts: Prepared,
        image_index: Tensor | None = None,
        text_index: Tensor | None = None,
    ) -> Tensor:
        self._check(images, texts)
        if text_index is not None:
            texts = texts.rows(text_index)
        if len(texts) != len(images if image_index is None else image_index):
            raise CrossAlignError(
                f"pairs: found {len(texts)} texts for another number of images; give one each"
            )
        parts, order = [], []
        with torch.autocast(images.units.device.type, enabled=False):
            images, shared = self._ready_images(images), self._shared()
            for group in TextGroup.all_of(texts):
                count = len(group.items)
                if not torch.is_grad_enabled():
                    gathered = _GATHERED[images.units.is_cpu] // max(1, images.units[0].numel())
                    count = max(1, min(self._piece(images) // group.length, gathered))
                for part in pieces(len(group.items), count):
                    items = group.items[part]
                    chosen = images.rows(items if image_index is None else image_index[items])
                    words = self._ready_texts(group.taken_from(texts, part))
                    parts.append(self._block(chosen, words, shared, paired=True))
                    order.append(items)
            if not parts:
                return images.units.new_zeros(0)
            return torch.cat(parts).index_select(0, torch.cat(order).argsort())

    def score_in_pieces(self, images: Prepared, texts: Prepared) -> Tensor:
        """:meth:`score` without gradients: some images with some texts at a time."""
        scores = images.units.new_empty(len(images), len(texts))
        if scores.numel() == 0:
            return scores
        words_with_images = max(1, self._piece(images))
        height, groups = len(images), TextGroup.all_of(texts)
        if self._independent:
            # As many regions as words in a piece: the matrix product of a square one reads the least. Where there
            # are not so many words, as in a single query, more images fill it.
            square = round(math.sqrt(words_with_images / images.units.shape[1]))
            fewest = words_with_images // max(group.places.numel() for group in groups)
            height = min(height, max(1, square, fewest))
        rows = list(pieces(len(images), height))
        shared = self._shared()
        image_pieces = [self._ready_images(images.rows(piece)) for piece in rows]
        for group in groups:
            for part in pieces(len(group.items), max(1, words_with_images // (height * group.length))):
                words = self._ready_texts(group.taken_from(texts, part))
                for piece, some_images in zip(rows, image_pieces, strict=True):
                    block = self._block(some_images, words, shared, paired=False)
                    scores[piece].index_copy_(1, group.items[part], block)
        return scores

    def _score_at_once(self, images: Prepared, texts: Prepared) -> Tensor:
        """:meth:`score` with the graph of its computation."""
        if len(images) == 0 or len(texts) == 0:
            return images.units.new_zeros(len(images), len(texts))
        blocks, order, shared = [], [], self._shared()
        words_with_images = self._piece(images)
        images = self._ready_images(images)
        for group in TextGroup.all_of(texts):
            most = max(1, words_with_images // (len(images) * group.length))
            for part in pieces(len(group.items), most):
                words = self._ready_texts(group.taken_from(texts, part))
                blocks.append(self._block(images, words, shared, paired=False))
                order.append(group.items[part])
        return torch.cat(blocks, dim=1).index_select(1, torch.cat(order).argsort())

    @abstractmethod
    def _ready_images(self, images: Prepared) -> Prepared:
        """What :meth:`_block` needs of images, computed before they meet texts."""

    @abstractmethod
    def _ready_texts(self, texts: Prepared) -> Prepared:
        """What :meth:`_block` needs of texts of equal length, computed before they meet images."""

    def _shared(self) -> Any:
        """What all blocks of a call need of the parameters."""
        return None

    @abstractmethod
    def _block(self, images: Prepared, texts: Prepared, shared: Any, paired: bool) -> Tensor:
        """Scores ``(n, m)``, or ``(p,)`` where paired, with texts that all have L words, none padded."""

    @abstractmethod
    def _piece(self, images: Prepared) -> int:
        """Words times images of a piece that memory and cache have room for."""

    @property
    def _independent(self) -> bool:
        """Whether a pair's score depends on that pair alone, so that it can be computed again without others."""
        return True

    def _needs_gradient(self, images: Prepared, texts: Prepared) -> bool:
        tensors = [images.units, images.summary, texts.units, texts.summary, *self.parameters()]
        return any(tensor is not None and tensor.requires_grad for tensor in tensors)

    def _check(self, images: Prepared, texts: Prepared) -> None:
        if images.units.shape[2] != texts.units.shape[2]:
            raise CrossAlignError(
                f"{type(self).__name__}: regions are {images.units.shape[2]} wide and words "
                f"{texts.units.shape[2]}; give both the same width"
            )
