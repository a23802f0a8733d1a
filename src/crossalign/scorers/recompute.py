"""Scores whose backward pass computes again what it needs, pair by pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossalign.scorers.prepared import Prepared

if TYPE_CHECKING:
    from crossalign.scorers.base import AttentionScorer

__all__ = ["recomputed_scores"]

_PAIRS = 1024
"""Pairs whose computation the backward pass holds at a time."""


def recomputed_scores(scorer: AttentionScorer, images: Prepared, texts: Prepared) -> Tensor:
    """Scores ``(n, m)`` that keep nothing of their computation but its inputs.

    The backward pass computes the pairs with a gradient again, at most 1024 at a time, and no others. So a loss
    that counts only hardest negatives pays for about three pairs an image instead of all.
    """
    tensors = [images.units, images.summary, texts.units, texts.summary]
    scores: Tensor = _Recomputed.apply(scorer, images, texts, *tensors, *_trained(scorer))
    return scores


def _trained(scorer: AttentionScorer) -> list[Tensor]:
    return [parameter for parameter in scorer.parameters() if parameter.requires_grad]


class _Recomputed(torch.autograd.Function):
    """The tensors stand in the signature beside the objects that hold them, so that autograd sees them."""

    @staticmethod
    def forward(
        ctx: Any, scorer: AttentionScorer, images: Prepared, texts: Prepared, *tensors: Tensor | None
    ) -> Tensor:
        ctx.scorer, ctx.image_mask, ctx.text_mask = scorer, images.mask, texts.mask
        ctx.save_for_backward(*tensors)
        return scorer.score_in_pieces(images, texts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        scorer: AttentionScorer = ctx.scorer
        inputs: list[Any] = [
            None if tensor is None else tensor.detach().requires_grad_(needed)
            for tensor, needed in zip(ctx.saved_tensors[:4], ctx.needs_input_grad[3:7], strict=True)
        ]
        leaves = [*inputs, *_trained(scorer)]
        wanted = [place for place, leaf in enumerate(leaves) if leaf is not None and leaf.requires_grad]
        totals: list[Tensor | None] = [None] * len(leaves)

        row, column = grad_output.nonzero(as_tuple=True)
        if ctx.text_mask is not None:
            # Texts of equal length come into the same computation.
            order = ctx.text_mask.sum(dim=1)[column].argsort(stable=True)
            row, column = row[order], column[order]
        with torch.autocast(grad_output.device.type, enabled=False):
            for start in range(0, len(row), _PAIRS):
                i, j = row[start : start + _PAIRS], column[start : start + _PAIRS]
                with torch.enable_grad():
                    images = Prepared(inputs[0], ctx.image_mask, inputs[1])
                    scores = scorer.score_pairs(images, Prepared(inputs[2], ctx.text_mask, inputs[3]), i, j)
                found = torch.autograd.grad(
                    scores, [leaves[place] for place in wanted], grad_output[i, j], allow_unused=True
                )
                for place, gradient in zip(wanted, found, strict=True):
                    if gradient is not None:
                        total = totals[place]
                        totals[place] = gradient if total is None else total.add_(gradient)
        return None, None, None, *totals
