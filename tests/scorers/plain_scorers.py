"""The scorers as their formulas read: one pair after the other, every vector on its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.scorers import SAFScorer, SGRScorer
from crossalign.scorers.summary import GlobalSummary


def real(units: Tensor, mask: Tensor | None) -> list[Tensor]:
    """The real units of each item; one zero unit for an item that has none."""
    if mask is None:
        return list(units)
    zero = torch.zeros_like(units[0, :1])
    return [item[keep] if keep.any() else zero for item, keep in zip(units, mask, strict=True)]


def places(units: Tensor, mask: Tensor | None) -> list[Tensor]:
    """Where the units of :func:`real` stand."""
    if mask is None:
        return [torch.arange(units.shape[1])] * len(units)
    return [keep.nonzero()[:, 0] if keep.any() else torch.tensor([0]) for keep in mask]


def plain_attention(context: Tensor, queries: Tensor, norm: str, sharpness: float) -> Tensor:
    """What each of the queries ``(Q, D)`` sees in the context ``(C, D)``."""
    raw = context @ queries.T
    if norm.startswith("clipped"):
        raw = torch.where(raw > 0, raw, 0.1 * raw)
    if norm.endswith("l2norm"):
        raw = raw / (torch.linalg.vector_norm(raw, dim=1, keepdim=True) + 1e-8)
    elif norm.endswith("l1norm"):
        raw = raw / (raw.abs().sum(dim=1, keepdim=True) + 1e-8)
    elif norm == "softmax":
        raw = raw.softmax(dim=1)
    return (raw * sharpness).softmax(dim=0).T @ context


def plain_scan(
    regions: Tensor,
    words: Tensor,
    region_mask: Tensor | None = None,
    word_mask: Tensor | None = None,
    *,
    direction: str = "t2i",
    norm: str = "clipped_l2norm",
    aggregation: str = "LogSumExp",
    lambda_softmax: float = 9.0,
    lambda_lse: float = 6.0,
) -> Tensor:
    """SCAN's scores ``(n, m)``, a loop over pairs."""
    rows = []
    for image in real(regions, region_mask):
        row = []
        for text in real(words, word_mask):
            queries, context = (text, image) if direction == "t2i" else (image, text)
            seen = plain_attention(context, queries, norm, lambda_softmax)
            cosines = F.cosine_similarity(queries, seen, dim=1)
            if aggregation == "LogSumExp":
                row.append((cosines * lambda_lse).exp().sum().log() / lambda_lse)
            else:
                row.append({"Mean": cosines.mean(), "Max": cosines.max(), "Sum": cosines.sum()}[aggregation])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def plain_summary(module: GlobalSummary, units: Tensor, place: Tensor) -> Tensor:
    """Global vector ``(D,)`` of units ``(N, D)`` that stand at the places ``(N,)``, in evaluation mode."""
    keys, guide = module.unit(units), module.mean(units.mean(dim=0))
    norm = module.unit_norm
    if norm is not None:
        scale = norm.weight / (norm.running_var + 1e-5).sqrt()
        keys = torch.stack(
            [
                (key - norm.running_mean[p]) * scale[p] + norm.bias[p]
                for key, p in zip(keys, place, strict=True)
            ]
        )
    norm = module.mean_norm
    if norm is not None:
        guide = (guide - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
    fit = (keys.tanh() * guide.tanh()) @ module.attention.weight[0]
    return F.normalize(fit.softmax(dim=0) @ units, dim=0)


def plain_similarities(scorer: SGRScorer | SAFScorer, image: Tensor, place: Tensor, text: Tensor) -> Tensor:
    """Global and local similarity vectors ``(L + 1, K)`` of one pair."""
    seen = F.normalize(plain_attention(image, text, "clipped_l2norm", 9.0), dim=1)
    local = F.normalize(scorer.local_projection((seen - text) ** 2), dim=1)
    seen, told = (
        plain_summary(scorer.image_summary, image, place),
        plain_summary(scorer.text_summary, text, place),
    )
    return torch.cat([F.normalize(scorer.global_projection((seen - told) ** 2), dim=0).unsqueeze(0), local])


def plain_sgraf(
    scorer: SGRScorer | SAFScorer,
    regions: Tensor,
    words: Tensor,
    region_mask: Tensor | None = None,
    word_mask: Tensor | None = None,
    *,
    statistics: list[tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """Scores ``(n, m)``, a loop over texts; with ``statistics``, SAF's gate takes those of each text, which are
    put there."""
    columns = []
    images = list(zip(real(regions, region_mask), places(regions, region_mask), strict=True))
    for text in real(words, word_mask):
        pairs = [plain_similarities(scorer, *image, text) for image in images]
        if isinstance(scorer, SGRScorer):
            vectors = []
            for nodes in pairs:
                for step in scorer.steps:
                    edges = (step.query(nodes) @ step.key(nodes).T).softmax(dim=1)  # type: ignore[operator]
                    nodes = step.output(edges @ nodes).relu()  # type: ignore[operator]
                vectors.append(nodes[0])
        else:
            logits = torch.stack([scorer.gate(nodes).squeeze(1) for nodes in pairs])
            norm = scorer.gate_norm
            mean, variance = norm.running_mean, norm.running_var
            if statistics is not None:
                mean, variance = logits.mean(), logits.var(correction=0)
                statistics.append((mean.detach(), logits.var().detach()))
            logits = (logits - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias
            gates = logits.sigmoid()
            gates = gates / gates.sum(dim=1, keepdim=True)
            vectors = [F.normalize(gate @ nodes, dim=0) for gate, nodes in zip(gates, pairs, strict=True)]
        columns.append(scorer.score_head(torch.stack(vectors)).sigmoid().squeeze(1))
    return torch.stack(columns, dim=1)
