"""How an alignment stands, beside its loss: sharpness of targets, use of concepts, accuracy of guides. No gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from crossalign.alignment.clustering import sinkhorn
from crossalign.alignment.lca import takeable_regions, with_past
from crossalign.masking import RealUnits, at_least_float32, masked_mean

__all__ = ["concept_counts", "guide_accuracy", "perplexity", "target_entropy"]


@torch.no_grad()
def target_entropy(
    regions: Tensor,
    words: Tensor,
    codebook: Tensor,
    region_mask: Tensor | None = None,
    word_mask: Tensor | None = None,
    image_rows: Tensor | None = None,
    *,
    epsilon: float = 0.05,
    sinkhorn_iterations: int = 2,
    allowed: Tensor | None = None,
    past: Tensor | None = None,
) -> Tensor:
    """Entropy in nats of what Local Concept Alignment asks words to predict: the least that its loss can reach.

    The mean over texts of the mean over their words of the entropy of the assignment of the region that a word takes;
    ln K where the targets tell nothing. Arguments as for :func:`~crossalign.alignment.lca_loss`.
    """
    regions, words, codebook = map(at_least_float32, (regions, words, codebook))
    real = RealUnits.of(regions, region_mask)
    packed = real.pack(regions)
    assigned = sinkhorn(with_past(packed, past) @ codebook.T, epsilon, sinkhorn_iterations)[: len(packed)]
    entropy = real.unpack(torch.special.entr(assigned).sum(dim=1, keepdim=True)).squeeze(2)
    rows = torch.arange(len(words), device=words.device) if image_rows is None else image_rows
    similarity = torch.bmm(words, regions[rows].transpose(1, 2))
    candidates = takeable_regions(region_mask, rows, allowed)
    if candidates is not None:
        similarity.masked_fill_(~candidates, -torch.inf)
        alignable = candidates.any(dim=2).expand(-1, words.shape[1])
        word_mask = alignable if word_mask is None else word_mask & alignable
    taken = entropy[rows].gather(1, similarity.argmax(dim=2)).unsqueeze(2)
    counted = None if word_mask is None else word_mask.any(dim=1).unsqueeze(0)
    return masked_mean(masked_mean(taken, word_mask).unsqueeze(0), counted).squeeze()


@torch.no_grad()
def concept_counts(units: Tensor, codebook: Tensor, mask: Tensor | None = None) -> Tensor:
    """How many real units of ``(B, N, D)`` lie closest to each of K concepts ``(K, D)``: ``(K,)`` int64."""
    packed = RealUnits.of(units, mask).pack(at_least_float32(units))
    return (packed @ at_least_float32(codebook).T).argmax(dim=1).bincount(minlength=len(codebook))


def perplexity(counts: Tensor) -> Tensor:
    """How many of K concepts are in use, judged by counts ``(K,)``: K where all are used alike, 1 where only one is;
    0 for no counts."""
    total = counts.sum()
    shares = counts / total.clamp(min=1)
    return torch.special.entr(shares.double()).sum().exp() * (total > 0)


@torch.no_grad()
def guide_accuracy(
    guides: Tensor, keys: Tensor, mask: Tensor | None, names: Tensor, key_names: Tensor
) -> Tensor:
    """Percent of guides ``(Q, D)`` that find their own image first among all real keys of ``(L, N, D)``.

    Args:
        mask: ``(L, N)`` bool, true where a key is real; None: all of them.
        names: ``(Q,)`` image of each guide.
        key_names: ``(L,)`` image of each item of keys.
    """
    real = RealUnits.of(keys, mask)
    owners = key_names[real.places(keys.device) // real.length]
    if not len(owners):
        return guides.new_zeros(())
    best = (at_least_float32(guides) @ real.pack(at_least_float32(keys)).T).argmax(dim=1)
    return 100 * (owners[best] == names).float().mean()
