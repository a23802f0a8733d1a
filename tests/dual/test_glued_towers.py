"""A timm network and a Hugging Face encoder glued by projections: fine-tuned from photos with the real weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from crossalign.model import RetrievalModel
from crossalign.recipe import Recipe, load_recipe
from crossalign.sources import Sources
from crossalign.training.assemble import assemble_model
from crossalign.training.trainer import train
from interrupted_training import interrupted
from photo_collection import write_collection


@pytest.fixture
def recipe(tmp_path: Path, tiny_photos: Callable[..., Any], shared_weights: Path) -> Recipe:
    """The recipe of the package on tiny photos."""
    collection = write_collection(tmp_path / "collection", tiny_photos(24))
    found = load_recipe(
        "flickr8k-mobilenet-minilm",
        [
            f"data.collection={collection.folder}",
            "data.workers=0",
            "training={epochs: 2, batch_size: 8, tensorboard: false, accelerator: cpu, checkpoint_every: 1}",
            "optimizer.warmup_steps=0",
        ],
    )
    values = found.model_dump()
    backbone = values["model"]["image"]["backbones"][0]
    backbone["weights"] = str(shared_weights / Path(backbone["weights"]).name)
    backbone["input"]["size"] = 64
    return Recipe.model_validate(values)


@pytest.mark.long
def test_real_weights_are_fine_tuned_and_what_is_frozen_stays(
    recipe: Recipe, tmp_path: Path, tiny_photos: Callable[..., Any]
) -> None:
    before = assemble_model(recipe, Sources.open(recipe.data.collection))
    train(recipe, tmp_path / "whole", progress=False)
    with interrupted(3):
        train(recipe, tmp_path / "parts", progress=False)
    torch.manual_seed(999)  # whatever the process drew meanwhile
    train(recipe, tmp_path / "parts", resume="auto", progress=False)
    for file in ("model.safetensors", "text_backbone/model.safetensors"):
        one, two = (load_file(tmp_path / run / "model" / file) for run in ("whole", "parts"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)

    tuned = RetrievalModel.from_pretrained(tmp_path / "whole")
    first = before.state_dict()
    moved = {name for name, value in tuned.state_dict().items() if not torch.equal(value, first[name])}
    image, text = "image_tower.backbones.0.network.", "text_tower.backbone.network."
    # Weights and batch statistics of the stem and of five blocks; embeddings and two layers of the texts.
    assert not {name for name in moved if name.startswith((f"{image}conv_stem", f"{image}bn1"))}
    assert not {name for name in moved for block in range(5) if name.startswith(f"{image}blocks.{block}.")}
    assert {name for name in moved if name.startswith(f"{image}blocks.6.")}
    assert not {name for name in moved if name.startswith((f"{text}embeddings", f"{text}encoder.layer.1."))}
    assert {name for name in moved if name.startswith(f"{text}encoder.layer.2.")}
    photos = tiny_photos(3, tmp_path / "others")
    embeddings = tuned.encode_images([photos.folder / name for name in photos.names])
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(3), atol=1e-5)


def test_checkpointing_trains_the_same(recipe: Recipe, tmp_path: Path) -> None:
    """Statistics of batch norms would move twice; all that is compared here comes from weights."""
    values = recipe.model_dump()
    values["optimizer"] |= {"frozen_image_blocks": "all"}
    values["training"] |= {"epochs": 1}
    plain = Recipe.model_validate(values)
    values["training"] |= {"gradient_checkpointing": True}
    train(plain, tmp_path / "plain", progress=False)
    train(Recipe.model_validate(values), tmp_path / "saving", progress=False)
    one, two = (
        load_file(tmp_path / run / "model" / "text_backbone" / "model.safetensors")
        for run in ("plain", "saving")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    "name",
    [
        "flickr8k-clip",
        "flickr8k-clip-selfalign",
        "flickr8k-clip-lora",
        "flickr8k-siglip",
        "flickr8k-mobilenet-minilm",
    ],
)
def test_recipes_load_without_a_download(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    if recipe.model.dual_encoder is not None:
        assert recipe.model.dual_encoder.weights is not None
