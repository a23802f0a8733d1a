"""Vectors of similarity between words and what they attend to, and between global vectors."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from crossalign.errors import CrossAlignError
from crossalign.scorers.attention import attention_weights, product, unit_similarities
from crossalign.scorers.base import AttentionScorer
from crossalign.scorers.prepared import Prepared, prepared_units
from crossalign.scorers.summary import GlobalSummary, xavier_linear

__all__ = ["SimilarityScorer", "over_norm"]

_SHARPNESS = 9.0
_EPSILON = 1e-8
_ELEMENTS = {True: 2**21, False: 2**26}
"""Values in the largest tensor of a piece, on a CPU and elsewhere."""


class SimilarityScorer(AttentionScorer):
    """What SGR and SAF share: one vector of similarity for each word and one for the global vectors.

    A word w and what it attends to among the regions, c, both of unit norm, have the similarity
    ``unit(local_projection((c - w)^2))``; the same for the global vectors. SGRAF (Diao et al., AAAI 2021),
    section 3.1; regions and words come as unit vectors.

    Args:
        dim: D, width of regions and words.
        similarity_dim: K, width of the similarity vectors.
        regions: most regions of an image; its self-attention normalises each place on its own, as published.
        dropout: probability of dropping a feature in the self-attentions that make the global vectors.

    Raises:
        CrossAlignError: a size that is not positive or a probability outside [0, 1).
    """

    def __init__(
        self, dim: int, similarity_dim: int = 256, *, regions: int = 36, dropout: float = 0.4
    ) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("similarity_dim", similarity_dim), ("regions", regions)):
            if value < 1:
                raise CrossAlignError(f"SGRAF: {name} is {value}; give a positive number")
        if not 0 <= dropout < 1:
            raise CrossAlignError(f"SGRAF: dropout is {dropout}; give a probability below 1, published 0.4")
        self.dim = dim
        self.similarity_dim = similarity_dim
        self.image_summary = GlobalSummary(dim, dropout, places=regions)
        self.text_summary = GlobalSummary(dim, dropout)
        self.local_projection = xavier_linear(dim, similarity_dim)
        self.global_projection = xavier_linear(dim, similarity_dim)
        self.score_head = xavier_linear(similarity_dim, 1)

    def prepare_images(self, regions: Tensor, mask: Tensor | None = None) -> Prepared:
        return self._summarised(regions, mask, "regions", self.image_summary)

    def prepare_texts(self, words: Tensor, mask: Tensor | None = None) -> Prepared:
        return self._summarised(words, mask, "words", self.text_summary)

    def _summarised(self, units: Tensor, mask: Tensor | None, name: str, summary: GlobalSummary) -> Prepared:
        ready = prepared_units(units, mask, name)
        if ready.units.shape[2] != self.dim:
            raise CrossAlignError(
                f"{name}: {ready.units.shape[2]} wide, but this scorer was made for dim {self.dim}"
            )
        with torch.autocast(units.device.type, enabled=False):
            # The mask as given: a zero unit put into an empty item is no part of any statistics.
            return Prepared(ready.units, ready.mask, summary(ready.units, mask))

    def _ready_images(self, images: Prepared) -> Prepared:
        return images.with_gram()

    def _ready_texts(self, texts: Prepared) -> Prepared:
        return texts.with_columns()

    def _piece(self, images: Prepared) -> int:
        return _ELEMENTS[images.units.is_cpu] // max(self.dim, self._node_elements)

    @property
    def _node_elements(self) -> int:
        """Values that the largest tensor after the projection has for a node."""
        return self.similarity_dim

    def _block(self, images: Prepared, texts: Prepared, shared: Any, paired: bool) -> Tensor:
        similarities = unit_similarities(images, texts, paired)
        weights, squared = attention_weights(similarities, images, "clipped_l2norm", _SHARPNESS)
        # From here on the words of a text stand together.
        weights = product(weights, squared.rsqrt().unsqueeze(1)).transpose(2, 3).flatten(2)
        attended = torch.bmm(weights.transpose(1, 2), images.units).unflatten(1, (-1, texts.units.shape[1]))
        seen, told = images.summary, texts.summary
        assert seen is not None
        assert told is not None
        local = _squared(attended, texts.units.unsqueeze(1) if paired else texts.units, self.local_projection)
        whole = _squared(seen.unsqueeze(1), told.unsqueeze(1) if paired else told, self.global_projection)
        scores = self.score_head(self._similarity(whole * over_norm(whole), local, shared)).sigmoid()
        return scores.flatten(1).squeeze(1) if paired else scores.squeeze(2)

    def _similarity(self, whole: Tensor, local: Tensor, shared: Any) -> Tensor:
        """Unit global similarities ``(n, m, K)`` and local ones ``(n, m, L, K)`` of any length to ``(n, m, K)``."""
        raise NotImplementedError


def over_norm(vectors: Tensor) -> Tensor:
    """One over the norm along the last axis, which stays; finite for zero vectors."""
    return 1.0 / (torch.linalg.vector_norm(vectors, dim=-1, keepdim=True) + _EPSILON)


def _squared(left: Tensor, right: Tensor, layer: nn.Linear) -> Tensor:
    """``layer((left - right)^2)`` along the last axis, where shapes broadcast."""
    if not torch.is_grad_enabled():
        left, right = torch.broadcast_tensors(left, right)
        return layer(F.mse_loss(left, right, reduction="none"))
    result: Tensor = _SquaredLinear.apply(left - right, layer.weight, layer.bias)
    return result


class _SquaredLinear(torch.autograd.Function):
    """``linear(x^2)`` that keeps x alone, the widest tensor of all, and not its square beside it."""

    @staticmethod
    def forward(ctx: Any, differences: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(differences, weight)
        squares = differences.flatten(0, -2).square()
        return torch.addmm(bias, squares, weight.T).unflatten(0, differences.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        differences, weight = ctx.saved_tensors
        gradient, rows = grad_output.flatten(0, -2), differences.flatten(0, -2)
        grad_differences = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_differences = ((gradient * 2) @ weight).mul_(rows).view_as(differences)
        if ctx.needs_input_grad[1]:
            grad_weight = gradient.T @ rows.square()
        if ctx.needs_input_grad[2]:
            grad_bias = gradient.sum(dim=0)
        return grad_differences, grad_weight, grad_bias
