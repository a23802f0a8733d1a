"""The codebook's warm start: when, from what, and without touching anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from crossalign.alignment.clustering import spherical_kmeans
from crossalign.data.loading import PairSampler, TrainingLoader
from crossalign.errors import CrossAlignError
from crossalign.model import evaluation_mode
from crossalign.objective import Objective
from crossalign.recipe import load_recipe
from crossalign.sources import Sources
from crossalign.training import warm_start as module
from crossalign.training.assemble import assemble_model
from crossalign.training.trainer import train
from crossalign.training.warm_start import begins_warm, warm_start


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ({"warm_start": True}, {1}),
        ({"warm_start": True, "frozen_codebook_epochs": 0}, {0}),
        ({"warm_start": True, "frozen_codebook_epochs": 2}, {2}),
        ({}, set()),
        (None, set()),
    ],
)
def test_it_comes_as_the_codebook_is_set_free(
    toy: Path, settings: dict[str, object] | None, epochs: set[int]
) -> None:
    recipe = load_recipe(toy)
    lca = None if settings is None else type(recipe.objective.lca)(**settings)
    objective = Objective(recipe.objective.model_copy(update={"lca": lca}), recipe.model)
    assert {epoch for epoch in range(4) if begins_warm(objective, epoch)} == epochs


@pytest.mark.parametrize("units", ["locals", "context"])
def test_the_codebook_becomes_the_centres_of_the_regions(
    toy: Path, units: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REGIONS_A_CONCEPT", 10)
    recipe = load_recipe(toy, [f"objective.lca.units={units}"])
    sources = Sources.open(recipe.data.collection, recipe.data.image_features)
    model = assemble_model(recipe, sources)
    objective = Objective(recipe.objective, model.config)
    split, images, texts = sources.split(model, "train")
    loader = TrainingLoader(split, images, texts, PairSampler(split, 16, 0))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert objective.lca is not None
    parameter = objective.lca.codebook
    warm_start(objective, model, loader, torch.device("cpu"), 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert objective.lca.codebook is parameter
    with torch.no_grad(), evaluation_mode(model):
        encodings = [model.image_tower(batch.image) for batch in loader]
    regions = torch.cat([F.normalize(getattr(image, units)[image.mask], dim=1) for image in encodings])
    assert len(regions) > 120
    torch.testing.assert_close(parameter.detach(), spherical_kmeans(regions[:120], 12, seed=5))


def test_too_few_regions_are_refused(toy: Path, tmp_path: Path) -> None:
    recipe = load_recipe(toy, ["objective.lca={warm_start: true, concepts: 5000, frozen_codebook_epochs: 0}"])
    with pytest.raises(CrossAlignError, match=r"regions for 5000 concepts; lower objective\.lca\.concepts"):
        train(recipe, tmp_path / "run", progress=False)


def test_a_start_that_cannot_come_is_refused(toy: Path) -> None:
    with pytest.raises(CrossAlignError, match=r"comes after the 3 epochs .* training\.epochs is 3"):
        load_recipe(toy, ["objective.lca={warm_start: true, frozen_codebook_epochs: 3}"])
    with pytest.raises(CrossAlignError, match="random_codebook leaves alone"):
        load_recipe(toy, ["objective.lca={warm_start: true, correspondence: random_codebook}"])
