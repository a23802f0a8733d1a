"""The alignments as their formulas read, in loops: what tests and benchmarks compare with."""

from __future__ import annotations

import torch
from torch import Tensor


def plain_sinkhorn(logits: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Normalise the whole matrix again and again. ``(N, K)`` to ``(N, K)``."""
    mass = torch.exp((logits - logits.max()) / epsilon)
    units, concepts = mass.shape
    for _ in range(iterations):
        for concept in range(concepts):
            mass[:, concept] = mass[:, concept] / mass[:, concept].sum() / concepts
        for unit in range(units):
            mass[unit] = mass[unit] / mass[unit].sum() / units
    return mass * units


def plain_lca(
    regions: Tensor,
    words: Tensor,
    codebook: Tensor,
    region_mask: Tensor | None = None,
    word_mask: Tensor | None = None,
    *,
    word_temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 2,
    symmetric: bool = False,
    image_rows: Tensor | None = None,
    allowed: Tensor | None = None,
    past: Tensor | None = None,
) -> Tensor:
    """Local Concept Alignment, a loop over texts and their words."""
    batch = len(words)
    if allowed is not None:
        rows = torch.arange(batch) if image_rows is None else image_rows
        may = allowed if region_mask is None else allowed & region_mask[rows].unsqueeze(1)
        word_mask = may.any(dim=2) if word_mask is None else word_mask & may.any(dim=2)
    image_of = list(range(batch)) if image_rows is None else image_rows.tolist()
    seen = [regions[i] if region_mask is None else regions[i][region_mask[i]] for i in range(len(regions))]
    real_regions = [seen[image_of[i]] for i in range(batch)]
    real_words = [words[i] if word_mask is None else words[i][word_mask[i]] for i in range(batch)]
    pairs = [i for i in range(batch) if len(real_regions[i]) and len(real_words[i])]
    with torch.no_grad():
        assigned = [*seen, codebook.new_zeros(0, codebook.shape[1]) if past is None else past]
        image_targets = plain_sinkhorn(torch.cat(assigned) @ codebook.T, epsilon, iterations).split(
            [len(item) for item in assigned]
        )
        region_targets = [image_targets[image_of[i]] for i in range(batch)]
        used_words = [real_words[i] for i in pairs]
        word_targets = plain_sinkhorn(torch.cat(used_words) @ codebook.T, epsilon, iterations).split(
            [len(item) for item in used_words]
        )
    total = codebook.new_zeros(())
    for place, i in enumerate(pairs):
        image = codebook.new_zeros(())
        for w, word in enumerate(real_words[i]):
            similarity = real_regions[i] @ word
            if allowed is not None:
                place_of_word = word_mask[i].nonzero()[w, 0]  # type: ignore[index]
                real = allowed[i, place_of_word]
                real = real if region_mask is None else real[region_mask[image_of[i]]]
                similarity = similarity.masked_fill(~real, -torch.inf)
            r = int(similarity.argmax())
            predicted = (codebook @ word / word_temperature).log_softmax(dim=0)
            term = -(region_targets[i][r] * predicted).sum()
            if symmetric:
                predicted = (codebook @ real_regions[i][r] / word_temperature).log_softmax(dim=0)
                term = (term - (word_targets[place][w] * predicted).sum()) / 2
            image = image + term
        total = total + image / len(real_words[i])
    return total / len(pairs)


def plain_nce(
    queries: Tensor,
    locals: Tensor,
    mask: Tensor | None = None,
    temperature: float = 0.7,
    hard_negatives: int | None = 512,
    ids: Tensor | None = None,
    local_ids: Tensor | None = None,
) -> Tensor:
    """Global-to-local InfoNCE, a loop over queries and the locals that belong to them."""
    real = [locals[i] if mask is None else locals[i][mask[i]] for i in range(len(locals))]
    names = list(range(len(queries))) if ids is None else ids.tolist()
    local_names = names if local_ids is None else local_ids.tolist()
    terms = []
    for i in range(len(queries)):
        scores = [item @ queries[i] / temperature for item in real]
        others = [scores[j] for j in range(len(locals)) if local_names[j] != names[i]]
        negatives = torch.cat([*others, queries.new_zeros(0)])
        if hard_negatives is not None and hard_negatives < len(negatives):
            negatives = negatives.topk(hard_negatives).values
        own = [i] if local_ids is None else [j for j in range(len(locals)) if local_names[j] == names[i]]
        for positive in (score for j in own for score in scores[j]):
            terms.append(-torch.cat([positive.unsqueeze(0), negatives]).log_softmax(dim=0)[0])
    return torch.stack(terms).mean()
