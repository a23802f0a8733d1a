"""Similarity graph reasoning and attention filtration: a pair's score from vectors of similarity."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from crossalign.errors import CrossAlignError
from crossalign.scorers.base import Scorer
from crossalign.scorers.normalisation import TextBatchNorm
from crossalign.scorers.prepared import Prepared
from crossalign.scorers.reasoning import ReasoningStep
from crossalign.scorers.similarity import SimilarityScorer, over_norm
from crossalign.scorers.summary import xavier_linear

__all__ = ["SAFScorer", "SGRAFScorer", "SGRScorer"]


class SGRScorer(SimilarityScorer):
    """Similarity graph reasoning (SGRAF, section 3.2): similarities of a pair inform the global one in steps.

    Args:
        dim: D, width of regions and words.
        similarity_dim: K, width of the similarity vectors.
        steps: steps of reasoning, at least 1.
        regions: most regions of an image.
        dropout: probability of dropping a feature in the self-attentions that make the global vectors.

    Example:
        >>> scorer = SGRScorer(dim=1024, similarity_dim=256)
        >>> scores = scorer(regions, words, word_mask=mask)  # (n, R, D), (m, W, D), (m, W) -> (n, m)
    """

    def __init__(
        self, dim: int, similarity_dim: int = 256, steps: int = 3, *, regions: int = 36, dropout: float = 0.4
    ) -> None:
        super().__init__(dim, similarity_dim, regions=regions, dropout=dropout)
        if steps < 1:
            raise CrossAlignError(f"SGR: steps is {steps}; give a positive number, published 3")
        self.steps = nn.ModuleList(ReasoningStep(similarity_dim) for _ in range(steps))

    @property
    def _reasoning(self) -> list[ReasoningStep]:
        return cast(list[ReasoningStep], list(self.steps))

    @property
    def _node_elements(self) -> int:
        return 2 * self.similarity_dim

    def _shared(self) -> list[tuple[Tensor, Tensor]]:
        return [step.maps() for step in self._reasoning]

    def _similarity(self, whole: Tensor, local: Tensor, shared: list[tuple[Tensor, Tensor]]) -> Tensor:
        nodes = torch.cat([whole.unsqueeze(2), local * over_norm(local)], dim=2).flatten(0, 1)
        *steps, last = zip(self._reasoning, shared, strict=True)
        for step, maps in steps:
            nodes = step(nodes, maps)
        # What becomes of the other nodes in the last step, nobody asks.
        return last[0].first(nodes, last[1]).unflatten(0, whole.shape[:2])


class SAFScorer(SimilarityScorer):
    """Similarity attention filtration (SGRAF, section 3.3): a gate for each similarity, and their weighted sum.

    The gate is ``sigmoid(norm(gate(s)))``. In training the normalisation takes its statistics for each text over
    all images of the call and the real words, as published; its running statistics follow their mean over texts.

    Args:
        dim: D, width of regions and words.
        similarity_dim: K, width of the similarity vectors.
        regions: most regions of an image.
        dropout: probability of dropping a feature in the self-attentions that make the global vectors.
    """

    def __init__(
        self, dim: int, similarity_dim: int = 256, *, regions: int = 36, dropout: float = 0.4
    ) -> None:
        super().__init__(dim, similarity_dim, regions=regions, dropout=dropout)
        self.gate = xavier_linear(similarity_dim, 1)
        self.gate_norm = TextBatchNorm()

    @property
    def _independent(self) -> bool:
        return not self.training

    def score(self, images: Prepared, texts: Prepared) -> Tensor:
        self.gate_norm.begin()
        scores = super().score(images, texts)
        self.gate_norm.update()
        return scores

    def score_pairs(
        self,
        images: Prepared,
        texts: Prepared,
        image_index: Tensor | None = None,
        text_index: Tensor | None = None,
    ) -> Tensor:
        """See the base class.

        Raises:
            CrossAlignError: in training mode, where a text's statistics need all images.
        """
        if self.training:
            raise CrossAlignError("SAF: single pairs have no batch statistics; call eval() first")
        return super().score_pairs(images, texts, image_index, text_index)

    def _similarity(self, whole: Tensor, local: Tensor, shared: None) -> Tensor:
        shrink = over_norm(local).squeeze(3)
        weight, bias = self.gate.weight[0], self.gate.bias
        logits = torch.cat([(whole @ weight).unsqueeze(2), (local @ weight) * shrink], dim=2) + bias
        gates = self.gate_norm(logits).sigmoid()
        # The local similarities are brought to unit norm by their weights.
        weights = (gates[:, :, 1:] * shrink).flatten(0, 1).unsqueeze(1)
        kept = torch.bmm(weights, local.flatten(0, 1)).view_as(whole) + whole * gates[:, :, :1]
        return kept * over_norm(kept)


class SGRAFScorer(Scorer[tuple[Prepared, Prepared]]):
    """The mean of SGR's and SAF's scores, each with its own parameters, as the published evaluation takes it.

    Args:
        dim: D, width of regions and words.
        similarity_dim: K, width of the similarity vectors.
        steps: SGR's steps of reasoning.
        regions: most regions of an image.
        dropout: probability of dropping a feature in the self-attentions that make the global vectors.
    """

    def __init__(
        self, dim: int, similarity_dim: int = 256, steps: int = 3, *, regions: int = 36, dropout: float = 0.4
    ) -> None:
        super().__init__()
        self.sgr = SGRScorer(dim, similarity_dim, steps, regions=regions, dropout=dropout)
        self.saf = SAFScorer(dim, similarity_dim, regions=regions, dropout=dropout)

    def prepare_images(self, regions: Tensor, mask: Tensor | None = None) -> tuple[Prepared, Prepared]:
        return self.sgr.prepare_images(regions, mask), self.saf.prepare_images(regions, mask)

    def prepare_texts(self, words: Tensor, mask: Tensor | None = None) -> tuple[Prepared, Prepared]:
        return self.sgr.prepare_texts(words, mask), self.saf.prepare_texts(words, mask)

    def prepare_gallery(self, images: tuple[Prepared, Prepared]) -> tuple[Prepared, Prepared]:
        return self.sgr.prepare_gallery(images[0]), self.saf.prepare_gallery(images[1])

    def score(self, images: tuple[Prepared, Prepared], texts: tuple[Prepared, Prepared]) -> Tensor:
        self.sgr.keep_graph = self.saf.keep_graph = self.keep_graph
        return (self.sgr.score(images[0], texts[0]) + self.saf.score(images[1], texts[1])) / 2

    def score_pairs(
        self,
        images: tuple[Prepared, Prepared],
        texts: tuple[Prepared, Prepared],
        image_index: Tensor | None = None,
        text_index: Tensor | None = None,
    ) -> Tensor:
        index = (image_index, text_index)
        return (
            self.sgr.score_pairs(images[0], texts[0], *index)
            + self.saf.score_pairs(images[1], texts[1], *index)
        ) / 2
