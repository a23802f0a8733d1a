"""Stacked cross attention: how each query (a word) weighs the units (an image's regions) it looks at.

What follows needs only the direction of an attended vector ``sum_c weight_c unit_c``. So weights need not sum to
one, units of zero have no influence whatever their weight, and the vector's length comes from the units' inner
products, without the vector itself.

Letters: b contexts of C units, q query items of Q units. Similarities are ``(b, C, Q, q)``: both reductions, over C
and over Q, then run over long contiguous rows. In matched pairs, b pairs stand along the first axis and q is 1.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.scorers.prepared import Prepared

__all__ = ["RAW_FEATURE_NORMS", "RawFeatureNorm", "attention_weights", "product", "unit_similarities"]

RawFeatureNorm = Literal[
    "clipped_l2norm", "l2norm", "clipped_l1norm", "l1norm", "softmax", "clipped", "no_norm"
]
RAW_FEATURE_NORMS: tuple[str, ...] = get_args(RawFeatureNorm)

_SLOPE = 0.1
_EPSILON, _TINY = 1e-8, 1e-30
_SAFE_EXPONENT = 30.0


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left * right``, in the place of ``left`` where no gradient needs it: fresh memory costs more than sums."""
    if torch.is_grad_enabled() and (left.requires_grad or right.requires_grad):
        return left * right
    return left.mul_(right)


def unit_similarities(context: Prepared, queries: Prepared, paired: bool) -> Tensor:
    """Inner products of all units: one matrix product, in pairs one of each pair.

    Args:
        context: b items of C units.
        queries: q items of Q units, with ``columns``; as many as contexts where they are paired.

    Returns:
        ``(b, C, Q, q)``, in pairs ``(b, C, Q, 1)``.
    """
    if paired:
        return torch.bmm(context.units, queries.units.transpose(1, 2)).unsqueeze(3)
    assert queries.columns is not None
    products = context.units.flatten(0, 1) @ queries.columns.T
    return products.view(*context.units.shape[:2], queries.units.shape[1], len(queries))


def attention_weights(
    similarities: Tensor,
    context: Prepared,
    norm: RawFeatureNorm,
    sharpness: float,
    query_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weights of the context's units for each query, and the squared length of their weighted sum.

    The length is that of a quadratic form in the context's inner products: exact to 1e-4 unless units cancel
    until less than a fortieth of their weighted lengths is left (36 random directions leave a sixth).

    Args:
        similarities: ``(b, C, Q, q)`` of :func:`unit_similarities`; left as they are.
        context: b items of C units, with ``gram``.
        norm: how a unit's similarities are normalised along the queries before the softmax over the units.
        sharpness: factor inside the softmax (lambda of the paper).
        query_mask: bool, broadcasts to ``(b, 1, Q, q)``; false queries are no part of a normalisation.

    Returns:
        Weights ``(b, C, Q, q)``, not normalised, and squared lengths ``(b, Q, q)``, never zero.
    """
    logits, bound = _normalised(similarities, norm, sharpness, query_mask)
    if bound > _SAFE_EXPONENT:
        highest, padded = logits.detach(), None
        if context.mask is not None:
            padded = ~context.mask[:, :, None, None]
            highest = highest.masked_fill(padded, -torch.inf)
        logits = logits - highest.amax(dim=1, keepdim=True)
        if padded is not None:
            # A padded unit may lie above the real ones.
            logits = logits.masked_fill(padded, 0.0)
    weights = logits.exp_()
    assert context.gram is not None
    flat = weights.flatten(2)
    mixed = torch.bmm(context.gram, flat)
    least = mixed[:, -1].detach().square()
    squared = product(mixed[:, :-1], flat).sum(dim=1)
    return weights, torch.maximum(squared, least).unflatten(1, similarities.shape[2:])


def _normalised(
    similarities: Tensor, norm: RawFeatureNorm, sharpness: float, query_mask: Tensor | None
) -> tuple[Tensor, float]:
    """Logits in memory of their own, and a bound of their absolute value."""
    if norm == "softmax":
        if query_mask is not None:
            similarities = similarities.masked_fill(~query_mask, -torch.inf)
        return product(similarities.softmax(dim=2), similarities.new_tensor(sharpness)), sharpness
    clipped = F.leaky_relu(similarities, _SLOPE) if norm.startswith("clipped") else similarities.clone()
    if norm in ("clipped_l2norm", "l2norm"):
        # The square root has no gradient at zero.
        norms = clipped.square().sum(dim=2, keepdim=True).clamp_(min=_TINY).sqrt_()
        return product(clipped, _over(norms, sharpness)), sharpness
    if norm in ("clipped_l1norm", "l1norm"):
        total = clipped.abs().sum(dim=2, keepdim=True)
        return product(clipped, _over(total, sharpness)), sharpness
    return product(clipped, similarities.new_tensor(sharpness)), torch.inf


def _over(norms: Tensor, sharpness: float) -> Tensor:
    """``sharpness / (norms + epsilon)``, in the place of ``norms`` where no gradient needs it."""
    if torch.is_grad_enabled() and norms.requires_grad:
        return sharpness / (norms + _EPSILON)
    return norms.add_(_EPSILON).reciprocal_().mul_(sharpness)
