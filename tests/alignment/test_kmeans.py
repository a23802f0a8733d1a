"""k-means on the sphere: finds what is there, draws by its seed alone, leaves no cluster empty."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.alignment.clustering import spherical_kmeans
from crossalign.errors import CrossAlignError


def groups(count: int, size: int, dim: int = 16, noise: float = 0.005) -> tuple[Tensor, Tensor]:
    """Units around far directions, shuffled, and these directions."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0][:count]
    units = directions.repeat(size, 1) + noise * torch.randn(count * size, dim, generator=generator)
    return F.normalize(units, dim=1)[torch.randperm(count * size, generator=generator)], directions


def scatter(units: Tensor, centres: Tensor) -> float:
    return float((1 - (units @ centres.T).max(dim=1).values).mean())


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_the_groups(seed: int) -> None:
    units, directions = groups(12, 30)
    centres = spherical_kmeans(units, 12, seed=seed)
    similarity = centres @ directions.T
    assert sorted(similarity.argmax(dim=1).tolist()) == list(range(12))
    assert similarity.max(dim=1).values.min() > 0.99
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(12))


def test_centres_are_the_means_of_their_units_and_better_than_drawn_ones() -> None:
    units = F.normalize(torch.randn(300, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    centres = spherical_kmeans(units, 7, iterations=200)
    nearest = torch.tensor([int((centres @ unit).argmax()) for unit in units])
    for cluster in range(7):
        mean = sum(unit for unit, owner in zip(units, nearest, strict=True) if owner == cluster)
        torch.testing.assert_close(centres[cluster], F.normalize(mean, dim=0), rtol=1e-4, atol=1e-5)
    begun = spherical_kmeans(units, 7, iterations=0)
    assert scatter(units, centres) < scatter(units, begun) - 0.02


def test_the_seed_decides_and_nothing_else_is_drawn() -> None:
    units, _ = groups(12, 4, noise=0.5)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one = spherical_kmeans(units, 12, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert torch.equal(one, spherical_kmeans(units, 12, seed=1))
    assert not torch.equal(one, spherical_kmeans(units, 12, seed=2))


def test_fewer_different_units_than_clusters_give_finite_centres() -> None:
    units = F.normalize(torch.eye(3).repeat(4, 1) + 0.2, dim=1)
    centres = spherical_kmeans(units, 9)
    assert centres.isfinite().all()
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(9))
    assert scatter(units, centres) < 1e-6
    torch.testing.assert_close(spherical_kmeans(units[:3], 3).sum(dim=0), units[:3].sum(dim=0))


def test_half_precision_is_computed_in_float32() -> None:
    units, _ = groups(5, 6)
    assert torch.equal(spherical_kmeans(units.bfloat16(), 5), spherical_kmeans(units.bfloat16().float(), 5))


def test_too_few_units_are_refused() -> None:
    with pytest.raises(CrossAlignError, match="3 units cannot be 4 clusters"):
        spherical_kmeans(torch.eye(3), 4)
