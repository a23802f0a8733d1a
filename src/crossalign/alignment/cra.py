"""Contextual Relation Alignment: the guide of a text is found in the parts of its image, and vice versa."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from crossalign.errors import CrossAlignError
from crossalign.losses.pairs import image_names
from crossalign.masking import RealUnits, at_least_float32

__all__ = ["ContextualRelationAlignment", "global_to_local_nce"]


def global_to_local_nce(
    queries: Tensor,
    locals: Tensor,
    mask: Tensor | None = None,
    temperature: float = 0.7,
    hard_negatives: int | None = 512,
    ids: Tensor | None = None,
    local_ids: Tensor | None = None,
) -> Tensor:
    """Tell the locals that belong to a query from the hardest locals of other images.

    Queries and locals are matched pairs, or named: with ``local_ids`` every item of locals belongs to every query of
    the same name, so that an image of several texts stands there once. Every real local that belongs to a query is
    one term of the mean: its negative log-softmax against the query's negatives, which all terms of a query share.
    SelfAlign (Zhuang et al., arXiv
    2308.14009), section III-C.

    Where there are fewer negatives than asked for, all of them count; a query without negatives adds zero.
    Everything is computed in float32 (float64 for float64 inputs), also under autocast.

    Args:
        queries: ``(Q, D)``.
        locals: ``(L, N, D)``; L is Q where they are matched pairs.
        mask: ``(L, N)`` bool, true where a local is real; ``None``: all of them.
        temperature: what inner products are divided by.
        hard_negatives: how many negatives a query meets, the most similar ones; ``None``: all of them.
        ids: ``(Q,)`` image of each query; locals of the same image are not negatives.
        local_ids: ``(L,)`` image of each item of locals; ``None``: item i and query i are a pair.

    Returns:
        Scalar; zero when no local is real.

    Raises:
        CrossAlignError: there is not one id a query or item, the temperature is not positive, or fewer than one
            negative is asked for.
    """
    _check_settings(temperature, hard_negatives)
    names = None
    if ids is not None or local_ids is not None:
        names = image_names(len(queries), ids, queries.device)
    local_names = names if local_ids is None else image_names(len(locals), local_ids, queries.device)
    with torch.autocast(queries.device.type, enabled=False):
        queries, locals = at_least_float32(queries), at_least_float32(locals)
        real = RealUnits.of(locals, mask)
        loss: Tensor = _GlobalToLocal.apply(
            queries, locals, real, names, local_names, local_ids is None, temperature, hard_negatives
        )
        return loss


def _check_settings(temperature: float, hard_negatives: int | None) -> None:
    if temperature <= 0:
        raise CrossAlignError(f"temperature is {temperature}; give a positive number, usually 0.7")
    if hard_negatives is not None and hard_negatives < 1:
        raise CrossAlignError(
            f"hard_negatives is {hard_negatives}; give at least 1, usually 512, or None for all"
        )


class _GlobalToLocal(torch.autograd.Function):
    """The loss and, while the scores are at hand, their gradient.

    It is zero except at a query's positives and chosen negatives, so that one matrix ``(Q, M)`` is all the
    backward pass needs beside its two matrix products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        locals: Tensor,
        real: RealUnits,
        names: Tensor | None,
        local_names: Tensor | None,
        paired: bool,
        temperature: float,
        hard_negatives: int | None,
    ) -> Tensor:
        keys = real.pack(locals)
        count = len(keys)
        owners = real.places(keys.device) // real.length
        scores = (queries / temperature) @ keys.T
        same = None if names is None or local_names is None else names.unsqueeze(1) == local_names[owners]
        if paired or same is None:
            asking = owners
            own = owners * count + torch.arange(count, device=keys.device)
        else:
            own = same.flatten().nonzero().squeeze(1)
            asking = own // max(count, 1)
        positives = scores.take(own)

        # Finite, so that a query without any negative has finite gradients; its exponential is exactly zero.
        nothing = torch.finfo(scores.dtype).min / 4
        if same is None:
            negatives = scores.view(-1).index_fill_(0, own, nothing).view_as(scores)
        else:
            negatives = scores.masked_fill_(same, nothing)
        chosen: Tensor | None = None
        if hard_negatives is not None and hard_negatives < count:
            chosen = _largest(scores, hard_negatives)
            negatives = scores.gather(1, chosen)
        against = negatives.logsumexp(dim=1)
        margins = positives - against[asking]
        terms = max(len(own), 1)
        loss = -F.logsigmoid(margins).sum() / terms

        if any(ctx.needs_input_grad):
            missing = (-margins).sigmoid() / (temperature * terms)
            pull = missing.new_zeros(len(queries)).index_add_(0, asking, missing).unsqueeze(1)
            gradient = (negatives - against.unsqueeze(1)).exp_().mul_(pull)
            if chosen is not None:
                # Memory that is at hand: fresh memory costs as much time as arithmetic here.
                gradient = scores.zero_().scatter_(1, chosen, gradient)
            gradient.put_(own, -missing)
            ctx.save_for_backward(queries, keys, gradient)
            ctx.real = real
        return loss

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_output: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None, None, None]:
        queries, keys, gradient = ctx.saved_tensors
        real: RealUnits = ctx.real
        gradient = gradient * grad_output
        grad_queries = grad_locals = None
        with torch.autocast(queries.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                grad_queries = gradient @ keys
            if ctx.needs_input_grad[1]:
                # Padding the scores' gradient costs less than padding the product.
                padded = real.unpack(gradient.T).flatten(0, 1)
                grad_locals = (padded @ queries).unflatten(0, (real.batch, real.length))
        return grad_queries, grad_locals, None, None, None, None, None, None


def _largest(values: Tensor, count: int) -> Tensor:
    """Places ``(B, count)`` of each row's largest values, unordered; on a CPU numpy partitions faster."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.argpartition(values.numpy(), -count, axis=1)[:, -count:])
    return values.topk(count, dim=1, sorted=False).indices


class ContextualRelationAlignment(nn.Module):
    """Text guides against image keys and image guides against text keys; the mean of both losses.

    Args:
        temperature: what inner products are divided by.
        hard_negatives: how many negatives a query meets; ``None``: all of them.
        multi_positive: texts of the same image belong to it. Otherwise, as published, a pair knows no other:
            another text of its image is as negative as any, and so is the image beside that text.

    Raises:
        CrossAlignError: the temperature or the number of negatives is not positive.
    """

    def __init__(
        self, temperature: float = 0.7, hard_negatives: int | None = 512, *, multi_positive: bool = True
    ) -> None:
        super().__init__()
        _check_settings(temperature, hard_negatives)
        self.temperature = temperature
        self.hard_negatives = hard_negatives
        self.multi_positive = multi_positive

    def forward(
        self,
        image_guide: Tensor,
        image_keys: Tensor,
        text_guide: Tensor,
        text_keys: Tensor,
        image_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        ids: Tensor | None = None,
        image_rows: Tensor | None = None,
    ) -> Tensor:
        """The loss of guides ``(B, D)`` with keys ``(B, R, D)`` and ``(B, W, D)``; a scalar.

        Pairs of equal ``ids`` ``(B,)`` show the same image. Where images stand there once, guides ``(U, D)`` and keys
        ``(U, R, D)``, ``image_rows`` ``(B,)`` names the image of each text instead.
        """
        settings = (self.temperature, self.hard_negatives)
        if not self.multi_positive:
            ids = None
            if image_rows is not None:
                image_guide, image_keys = image_guide[image_rows], image_keys[image_rows]
                image_mask = None if image_mask is None else image_mask[image_rows]
                image_rows = None
        if image_rows is None:
            texts = global_to_local_nce(text_guide, image_keys, image_mask, *settings, ids)
            images = global_to_local_nce(image_guide, text_keys, text_mask, *settings, ids)
        else:
            rows = torch.arange(len(image_guide), device=image_rows.device)
            texts = global_to_local_nce(text_guide, image_keys, image_mask, *settings, image_rows, rows)
            images = global_to_local_nce(image_guide, text_keys, text_mask, *settings, rows, image_rows)
        return (texts + images) / 2
