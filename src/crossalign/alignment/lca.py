"""Local Concept Alignment: a word and the region it names belong to the same visual concepts."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from crossalign.alignment.clustering import sinkhorn_
from crossalign.alignment.pairing import caption_pairs
from crossalign.alignment.queue import UnitQueue
from crossalign.errors import CrossAlignError
from crossalign.masking import RealUnits, at_least_float32

__all__ = ["LocalConceptAlignment", "lca_loss"]


class _ConceptCrossEntropy(torch.autograd.Function):
    """Weighted cross-entropy between targets and ``softmax(units codebook^T / temperature)``.

    Memory that is at hand is used again: the product with the targets overwrites the logits, and the logits'
    gradient, softmax minus target, the log-probabilities. Fresh memory costs as much time as arithmetic here.
    """

    @staticmethod
    def forward(
        ctx: Any, units: Tensor, codebook: Tensor, targets: Tensor, weights: Tensor, temperature: float
    ) -> Tensor:
        logits = (units @ codebook.T).div_(temperature)
        log_probabilities = logits.log_softmax(dim=1)
        loss = -(torch.mul(targets, log_probabilities, out=logits).sum(dim=1) @ weights)
        if any(ctx.needs_input_grad):
            scale = (weights / temperature).unsqueeze(1)
            gradient = log_probabilities.exp_().sub_(targets).mul_(scale)
            ctx.save_for_backward(units, codebook, gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        units, codebook, gradient = ctx.saved_tensors
        grad_units = grad_codebook = None
        with torch.autocast(units.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                grad_units = (gradient @ codebook).mul_(grad_output)
            if ctx.needs_input_grad[1]:
                grad_codebook = (gradient.T @ units).mul_(grad_output)
        return grad_units, grad_codebook, None, None, None


def lca_loss(
    regions: Tensor,
    words: Tensor,
    codebook: Tensor,
    region_mask: Tensor | None = None,
    word_mask: Tensor | None = None,
    *,
    word_temperature: float = 0.1,
    epsilon: float = 0.05,
    sinkhorn_iterations: int = 2,
    symmetric: bool = False,
    image_rows: Tensor | None = None,
    allowed: Tensor | None = None,
    past: Tensor | None = None,
) -> Tensor:
    """Predict the concepts of the region that a word names from the word.

    All regions of the batch are assigned to the codebook's concepts by Sinkhorn-Knopp, without gradient. Each
    word takes the region of its own image with the largest inner product and predicts that region's
    assignment. The loss is the mean over texts of the mean over their words of the cross-entropy. SelfAlign
    (Zhuang et al., arXiv 2308.14009), section III-B.

    A text without a real word or one whose image has no real region has nothing to align and is left out of the
    mean, and so is a word that may take no region; a batch of nothing else gives zero. Everything is computed in
    float32 (float64 for float64 inputs), also under autocast.

    Args:
        regions: ``(U, R, D)`` unit norm.
        words: ``(B, W, D)`` unit norm.
        codebook: ``(K, D)`` concepts, rows of unit norm.
        region_mask: ``(U, R)`` bool, true where a region is real; ``None``: all of them.
        word_mask: ``(B, W)`` bool, true where a word is real; ``None``: all of them.
        word_temperature: what a word's logits are divided by.
        epsilon: sharpness of the assignment, see :func:`~crossalign.alignment.sinkhorn`.
        sinkhorn_iterations: at least 1.
        symmetric: also predict each word's assignment from the region it took, and average both directions.
        image_rows: ``(B,)`` row of the image that each text describes, so that an image of several texts counts
            once in the assignment; ``None``: text i describes image i.
        allowed: ``(B, W, R)`` bool, the regions of its image that each word may take; ``None``: all of them.
        past: ``(P, D)`` regions of earlier batches, unit norm, that take part in the assignment and no more.

    Returns:
        Scalar. Gradients reach ``words`` and ``codebook``, with ``symmetric`` ``regions`` as well.
    """
    with torch.autocast(regions.device.type, enabled=False):
        regions, words, codebook = map(at_least_float32, (regions, words, codebook))
        rows = torch.arange(len(words), device=words.device) if image_rows is None else image_rows
        own = regions.detach() if image_rows is None else regions.detach().index_select(0, rows)
        similarity = torch.bmm(words.detach(), own.transpose(1, 2))
        candidates = takeable_regions(region_mask, rows, allowed)
        if candidates is not None:
            similarity.masked_fill_(~candidates, -torch.inf)
            alignable = candidates.any(dim=2).expand(-1, words.shape[1])
            word_mask = alignable if word_mask is None else word_mask & alignable
        real_regions = RealUnits.of(regions, region_mask)
        real_words = RealUnits.of(words, word_mask)
        places = real_words.places(words.device)

        owners = places // real_words.length
        counts = owners.bincount(minlength=real_words.batch)
        weights = 1.0 / (counts[owners] * (counts > 0).sum()).to(words.dtype)

        # The region a word takes, as its row among the real regions.
        taken = rows[owners] * real_regions.length + similarity.argmax(dim=2).flatten()[places]
        if real_regions.positions is not None:
            taken = torch.searchsorted(real_regions.positions, taken)

        packed_words, packed_regions = real_words.pack(words), real_regions.pack(regions)
        region_logits = with_past(packed_regions, past).detach() @ codebook.detach().T
        targets = sinkhorn_(region_logits, epsilon, sinkhorn_iterations, taken)
        loss: Tensor = _ConceptCrossEntropy.apply(packed_words, codebook, targets, weights, word_temperature)
        if symmetric:
            word_logits = packed_words.detach() @ codebook.detach().T
            targets = sinkhorn_(word_logits, epsilon, sinkhorn_iterations)
            chosen = packed_regions.index_select(0, taken)
            reverse: Tensor = _ConceptCrossEntropy.apply(chosen, codebook, targets, weights, word_temperature)
            loss = (loss + reverse) / 2
        return loss


def takeable_regions(region_mask: Tensor | None, rows: Tensor, allowed: Tensor | None) -> Tensor | None:
    """The regions that a text's words may take, ``(B, W, R)`` or ``(B, 1, R)`` bool: real ones that are ``allowed``.

    ``None`` where all are. For the arguments see :func:`lca_loss`; ``rows`` is ``image_rows``.
    """
    if region_mask is None:
        return allowed
    real = region_mask.index_select(0, rows).unsqueeze(1)
    return real if allowed is None else real & allowed


def with_past(regions: Tensor, past: Tensor | None) -> Tensor:
    """Regions ``(M, D)`` of a batch and, behind them, those of earlier ones ``(P, D)``."""
    return regions if past is None else torch.cat([regions, past.to(regions)])


class LocalConceptAlignment(nn.Module):
    """Local Concept Alignment with its codebook; needed in training only.

    The paper keeps the codebook as it is during the first epoch: ``codebook.requires_grad_(False)``.

    Args:
        dim: D, width of regions and words.
        concepts: K, size of the codebook.
        word_temperature: what a word's logits are divided by.
        epsilon: sharpness of the assignment.
        sinkhorn_iterations: at least 1.
        symmetric: train regions against words, too.
        queue: how many regions of earlier batches take part in the assignment; :meth:`remember` gives them. 0: none.

    Raises:
        CrossAlignError: a size, temperature or number of iterations is not positive.

    Example:
        >>> lca = LocalConceptAlignment(dim=1024, concepts=1024)
        >>> loss = lca(regions, words, word_mask=mask)  # (B, R, D), (B, W, D), (B, W)
    """

    def __init__(
        self,
        dim: int,
        concepts: int = 1024,
        word_temperature: float = 0.1,
        epsilon: float = 0.05,
        sinkhorn_iterations: int = 2,
        symmetric: bool = False,
        queue: int = 0,
    ) -> None:
        super().__init__()
        settings = {
            "dim": dim,
            "concepts": concepts,
            "word_temperature": word_temperature,
            "epsilon": epsilon,
            "sinkhorn_iterations": sinkhorn_iterations,
        }
        for name, value in settings.items():
            if value <= 0:
                raise CrossAlignError(f"Local Concept Alignment: {name} is {value}; give a positive number")
        self.word_temperature = word_temperature
        self.epsilon = epsilon
        self.sinkhorn_iterations = sinkhorn_iterations
        self.symmetric = symmetric
        self.codebook = nn.Parameter(F.normalize(torch.randn(concepts, dim), dim=1))
        self.queue = UnitQueue(queue, dim) if queue else None

    @torch.no_grad()
    def renormalize(self) -> None:
        """Bring the codebook's rows back to unit norm, in place and outside the graph."""
        self.codebook.div_(torch.linalg.vector_norm(self.codebook, dim=1, keepdim=True).clamp_(min=1e-12))

    @property
    def past(self) -> Tensor | None:
        """Regions ``(P, D)`` of earlier batches; ``None`` without a queue."""
        return None if self.queue is None else self.queue.past()

    def remember(self, regions: Tensor, region_mask: Tensor | None = None) -> None:
        """Put a batch's regions ``(B, R, D)`` into the queue, where there is one: once a step, after its loss."""
        if self.queue is not None:
            self.queue.push(regions, region_mask)

    def forward(
        self,
        regions: Tensor,
        words: Tensor,
        region_mask: Tensor | None = None,
        word_mask: Tensor | None = None,
        image_rows: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """The loss of regions ``(B, R, D)`` and words ``(B, W, D)``, or of ``(U, R, D)`` where ``image_rows``
        ``(B,)`` names each text's image; ``allowed`` ``(B, W, R)`` says which regions each word may take. See
        :func:`~crossalign.alignment.lca_loss`.

        In training mode the codebook is renormalised first.
        """
        if self.training:
            self.renormalize()
        return lca_loss(
            regions,
            words,
            # A copy: the next call renormalises the parameter in place, perhaps before this one's backward
            # pass.
            self.codebook.clone(),
            region_mask,
            word_mask,
            word_temperature=self.word_temperature,
            epsilon=self.epsilon,
            sinkhorn_iterations=self.sinkhorn_iterations,
            symmetric=self.symmetric,
            image_rows=image_rows,
            allowed=allowed,
            past=self.past,
        )

    def between_captions(self, words: Tensor, word_mask: Tensor | None, image_rows: Tensor) -> Tensor:
        """The same loss with another caption of the image in the place of the image's regions.

        Every word takes the most similar word of the caption that :func:`~crossalign.alignment.pairing.caption_pairs`
        names and predicts its assignment; all words of the batch are assigned together. Arguments as for
        :meth:`forward`, which has renormalised the codebook; zero where no image has several captions.
        """
        first, second = caption_pairs(image_rows)
        return lca_loss(
            words,
            words.index_select(0, first),
            self.codebook.clone(),
            word_mask,
            None if word_mask is None else word_mask.index_select(0, first),
            word_temperature=self.word_temperature,
            epsilon=self.epsilon,
            sinkhorn_iterations=self.sinkhorn_iterations,
            image_rows=second,
        )
