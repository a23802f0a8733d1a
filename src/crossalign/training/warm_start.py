"""A codebook that begins where regions are, not where chance puts it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from crossalign.alignment.clustering import spherical_kmeans
from crossalign.data.batch import Batch
from crossalign.errors import CrossAlignError
from crossalign.masking import RealUnits
from crossalign.model import RetrievalModel, evaluation_mode
from crossalign.objective import Objective
from crossalign.objective.lca_term import compared_units

__all__ = ["begins_warm", "warm_start"]

# Regions a concept: enough for a centre that is no single region, few enough for seconds.
REGIONS_A_CONCEPT = 16


def begins_warm(objective: Objective, epoch: int) -> bool:
    """Whether the codebook is to be set before this epoch, counted from 0: the first in which it is trained."""
    lca = objective.settings.lca
    return lca is not None and lca.warm_start and epoch == lca.frozen_codebook_epochs


@torch.no_grad()
def warm_start(
    objective: Objective, model: RetrievalModel, batches: Iterable[Batch], device: torch.device, seed: int
) -> None:
    """Set the codebook to the k-means centres of the regions of the first batches.

    Regions are encoded as in evaluation, so nothing is drawn but by ``seed`` and no statistics move.

    Args:
        batches: as many are taken as give enough regions, all of them at the most.

    Raises:
        CrossAlignError: they have fewer regions than there are concepts.
    """
    lca, settings = objective.lca, objective.settings.lca
    assert lca is not None
    assert settings is not None
    wanted, found = REGIONS_A_CONCEPT * settings.concepts, 0
    gathered: list[Tensor] = []
    with evaluation_mode(model):
        for batch in batches:
            image = model.image_tower(batch.image.to(device))
            units = compared_units(settings, image)
            gathered.append(RealUnits.of(units, image.mask).pack(units)[: wanted - found])
            found += len(gathered[-1])
            if found == wanted:
                break
    if found < settings.concepts:
        raise CrossAlignError(
            f"objective.lca.warm_start: an epoch has {found} regions for {settings.concepts} concepts; lower "
            "objective.lca.concepts, or leave warm_start out"
        )
    lca.codebook.copy_(spherical_kmeans(torch.cat(gathered), settings.concepts, seed=seed))
