"""Balanced soft assignment of units to concepts, and k-means to begin with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.masking import at_least_float32

__all__ = ["sinkhorn", "sinkhorn_", "spherical_kmeans"]

# Scaling factors are bounded by the exponential of the range; float32 ends at exp(88).
_SAFE_RANGE = 80.0


def sinkhorn(logits: Tensor, epsilon: float = 0.05, iterations: int = 2) -> Tensor:
    """Assign N units to K concepts so that all concepts are used alike (Sinkhorn-Knopp; no gradient).

    Starts from ``exp(logits / epsilon)``. An iteration scales every concept to mass 1/K, then every unit to
    mass 1/N. SwAV (Caron et al., NeurIPS 2020), section 3.1.

    Args:
        logits: ``(N, K)``, any finite values.
        epsilon: the smaller, the sharper the assignment.
        iterations: at least 1.

    Returns:
        ``(N, K)``, at least float32; each row sums to 1.

    Raises:
        CrossAlignError: ``epsilon`` is not positive or ``iterations`` is less than 1.
    """
    return sinkhorn_(at_least_float32(logits.detach()).clone(), epsilon, iterations)


@torch.no_grad()
def sinkhorn_(logits: Tensor, epsilon: float, iterations: int, rows: Tensor | None = None) -> Tensor:
    """The assignment of :func:`sinkhorn`, with ``logits`` as its working memory.

    The assignment always is the exponentiated matrix with its rows and columns scaled by two vectors. So only
    the vectors are iterated, each by one matrix-vector product, and rows are written down once, at the end.

    Args:
        logits: ``(N, K)`` float32 or float64, overwritten. A range too wide for the exponential is handled in
            the logarithmic domain.
        epsilon: the smaller, the sharper the assignment.
        iterations: at least 1.
        rows: ``(M,)``, the units whose assignment is wanted, in any order and number; all of them by default.

    Returns:
        ``(N, K)`` or ``(M, K)``.
    """
    if epsilon <= 0:
        raise CrossAlignError(f"epsilon is {epsilon}; give a positive number, usually 0.05")
    if iterations < 1:
        raise CrossAlignError(f"iterations is {iterations}; the assignment needs at least 1, usually 2 or 3")
    if logits.numel() == 0:
        return logits if rows is None else logits.index_select(0, rows)
    with torch.autocast(logits.device.type, enabled=False):
        lowest, highest = logits.aminmax()
        if not (highest - lowest).item() <= _SAFE_RANGE * epsilon:
            return _wide_sinkhorn(logits.div_(epsilon), iterations, rows)
        kernel = logits.sub_(highest).div_(epsilon).exp_()
        units = kernel.new_ones(kernel.shape[0])
        for iteration in range(iterations):
            concepts = (units @ kernel).reciprocal_()
            # Only their relations count: with the largest at 1 no factor leaves the range of float32.
            concepts /= concepts.max()
            if iteration < iterations - 1:
                units = (kernel @ concepts).reciprocal_()
                units /= units.max()
        chosen = kernel if rows is None else kernel.index_select(0, rows)
        chosen.mul_(concepts)
        return chosen.div_(chosen.sum(dim=1, keepdim=True))


def _wide_sinkhorn(logits: Tensor, iterations: int, rows: Tensor | None) -> Tensor:
    """The same for ``logits`` already divided by epsilon, with logarithms of the scaling factors."""
    units = logits.new_zeros(logits.shape[0], 1)
    for iteration in range(iterations):
        concepts = -(logits + units).logsumexp(dim=0)
        if iteration < iterations - 1:
            units = -(logits + concepts).logsumexp(dim=1, keepdim=True)
    chosen = logits if rows is None else logits.index_select(0, rows)
    return (chosen + concepts).softmax(dim=1)


@torch.no_grad()
def spherical_kmeans(units: Tensor, clusters: int, *, iterations: int = 10, seed: int = 0) -> Tensor:
    """Unit-norm centres of K clusters of unit vectors, compared by inner product (no gradient).

    Seeded as k-means++ does (Arthur and Vassilvitskii, SODA 2007): every further centre is a unit drawn by its squared
    distance to the closest one so far. A cluster that loses all of its units begins anew at the unit that is farthest
    from its centre. Ends early where no unit changes its cluster. Dhillon and Modha, Machine Learning 42, 2001.

    Args:
        units: ``(N, D)`` unit norm.
        clusters: K, at most N.
        iterations: rounds of assigning and averaging.
        seed: of the draws; equal arguments give equal centres on a CPU.

    Returns:
        ``(K, D)``, at least float32.

    Raises:
        CrossAlignError: there are fewer units than clusters.
    """
    if len(units) < clusters:
        raise CrossAlignError(f"{len(units)} units cannot be {clusters} clusters; ask for fewer clusters")
    with torch.autocast(units.device.type, enabled=False):
        units = at_least_float32(units)
        centres = units[_spread(units, clusters, torch.Generator().manual_seed(seed))]
        before: Tensor | None = None
        for _ in range(iterations):
            nearest, similarity = _nearest(units, centres)
            counts = nearest.bincount(minlength=clusters)
            empty = (counts == 0).nonzero().squeeze(1)
            nearest[similarity.argsort()[: len(empty)]] = empty
            if before is not None and torch.equal(nearest, before):
                break
            before = nearest
            centres = F.normalize(torch.zeros_like(centres).index_add_(0, nearest, units), dim=1)
        return centres


def _spread(units: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Places ``(count,)`` of units far from each other, drawn by k-means++."""
    chosen = [int(torch.randint(len(units), (1,), generator=generator))]
    distance = units.new_full((len(units),), torch.inf)
    while len(chosen) < count:
        distance = torch.minimum(distance, (1 - units @ units[chosen[-1]]).clamp_(min=0))
        # What is left of rounding is no distance; with nothing else left any unit will do.
        weights = torch.where(distance > 1e-6, distance, 0.0).double().cpu()
        if not weights.any():
            weights = torch.ones_like(weights)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return torch.tensor(chosen, device=units.device)


def _nearest(units: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The closest centre of each unit and their inner product, both ``(N,)``; in parts of bounded memory."""
    found = [(part @ centres.T).max(dim=1) for part in units.split(8192)]
    return torch.cat([part.indices for part in found]), torch.cat([part.values for part in found])
