"""Stacked cross attention: words look at regions, or regions at words, and the cosines are pooled."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.scorers.attention import (
    RAW_FEATURE_NORMS,
    RawFeatureNorm,
    attention_weights,
    product,
    unit_similarities,
)
from crossalign.scorers.base import AttentionScorer
from crossalign.scorers.prepared import Prepared, pieces

__all__ = ["Aggregation", "Direction", "SCANScorer"]

Direction = Literal["t2i", "i2t"]
Aggregation = Literal["LogSumExp", "Mean", "Max", "Sum"]

_SAFE_EXPONENT = 40.0
_CACHED = 2**17
"""Inner products that stay in the second-level cache of one or two CPU cores with what is computed from them."""
_ELEMENTS = {True: 2**21, False: 2**26}
"""Inner products in a piece, on a CPU and elsewhere."""


class SCANScorer(AttentionScorer):
    """SCAN (Lee et al., ECCV 2018): no parameters of its own.

    Each word attends to the regions of an image (``t2i``), or each region to the words of a text (``i2t``): a
    softmax over normalised inner products. The cosines between a unit and what it attends to are pooled to the
    score (equations 1 to 12).

    Args:
        direction: who looks at whom.
        raw_feature_norm: how the inner products of a unit that is looked at are normalised along those that
            look, before the softmax.
        aggregation: how cosines become one score.
        lambda_softmax: inverse temperature of the softmax; published 9 for ``t2i``, 4 for ``i2t``.
        lambda_lse: inverse temperature of ``LogSumExp``; published 6 for ``t2i``, 5 or 20 for ``i2t``.

    Raises:
        CrossAlignError: a setting that is not one of these, or a lambda that is not positive.

    Example:
        >>> scorer = SCANScorer("t2i")
        >>> scores = scorer(regions, words, word_mask=mask)  # (n, R, D), (m, W, D), (m, W) -> (n, m)
    """

    def __init__(
        self,
        direction: Direction = "t2i",
        raw_feature_norm: RawFeatureNorm = "clipped_l2norm",
        aggregation: Aggregation = "LogSumExp",
        lambda_softmax: float = 9.0,
        lambda_lse: float = 6.0,
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("direction", direction, get_args(Direction)),
            ("raw_feature_norm", raw_feature_norm, RAW_FEATURE_NORMS),
            ("aggregation", aggregation, get_args(Aggregation)),
        ):
            if value not in allowed:
                raise CrossAlignError(f"SCAN: {name} is '{value}'; choose one of {', '.join(allowed)}")
        for name, number in (("lambda_softmax", lambda_softmax), ("lambda_lse", lambda_lse)):
            if not 0 < number < math.inf:
                raise CrossAlignError(f"SCAN: {name} is {number}; give a positive number")
        self.direction = direction
        self.raw_feature_norm = raw_feature_norm
        self.aggregation = aggregation
        self.lambda_softmax = lambda_softmax
        self.lambda_lse = lambda_lse

    def _ready_images(self, images: Prepared) -> Prepared:
        return images.with_gram() if self.direction == "t2i" else _as_queries(images)

    def _ready_texts(self, texts: Prepared) -> Prepared:
        return _as_queries(texts) if self.direction == "t2i" else texts.with_gram()

    def _piece(self, images: Prepared) -> int:
        return _ELEMENTS[images.units.is_cpu] // images.units.shape[1]

    def _block(self, images: Prepared, texts: Prepared, shared: None, paired: bool) -> Tensor:
        context, queries = (images, texts) if self.direction == "t2i" else (texts, images)
        mask, reciprocals = queries.mask, queries.reciprocals
        assert reciprocals is not None
        if mask is not None:
            mask = mask.unsqueeze(2) if paired else mask.T.unsqueeze(0)
        similarities = unit_similarities(context, queries, paired)
        # The matrix product is best large, and what follows it best in the cache.
        height = max(1, _CACHED // similarities[0].numel()) if similarities.is_cpu else len(similarities)
        products, squared = [], []
        for part in pieces(len(similarities), height):
            some = similarities[part]
            some_mask = None if mask is None else mask[part if paired else slice(None)].unsqueeze(1)
            weights, square = attention_weights(
                some, context.rows(part), self.raw_feature_norm, self.lambda_softmax, some_mask
            )
            # Written over the weights, which are in the cache: the similarities come from memory.
            products.append(product(weights, some).sum(dim=1))
            squared.append(square)
        lengths = torch.cat(squared).rsqrt() * (reciprocals.unsqueeze(2) if paired else reciprocals.T)
        scores = self._pooled(torch.cat(products) * lengths, mask)
        if paired:
            return scores.squeeze(1)
        return scores if self.direction == "t2i" else scores.T

    def _pooled(self, cosines: Tensor, mask: Tensor | None) -> Tensor:
        """Cosines ``(b, Q, q)`` to ``(b, q)``."""
        if self.aggregation in ("LogSumExp", "Max") and mask is not None:
            cosines = cosines.masked_fill(~mask, -torch.inf)
        if self.aggregation == "Max":
            return cosines.amax(dim=1)
        if self.aggregation == "LogSumExp":
            scaled = cosines * self.lambda_lse
            if self.lambda_lse <= _SAFE_EXPONENT:
                # Cosines are bounded, so nothing overflows; torch.logsumexp takes much longer.
                return scaled.exp_().sum(dim=1).log_() / self.lambda_lse
            return scaled.logsumexp(dim=1) / self.lambda_lse
        if mask is not None:
            cosines = cosines.masked_fill(~mask, 0.0)
        total = cosines.sum(dim=1)
        if self.aggregation == "Sum":
            return total
        return total / (cosines.shape[1] if mask is None else mask.sum(dim=1))


def _as_queries(items: Prepared) -> Prepared:
    return items.with_reciprocals().with_columns()
