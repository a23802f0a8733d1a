"""Recipes: strict keys, overrides, inheritance."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from crossalign.errors import CrossAlignError
from crossalign.recipe import Recipe, available_recipes, load_recipe


@pytest.mark.parametrize("name", available_recipes())
def test_every_recipe_of_the_package_is_valid_and_bears_its_file_name(name: str) -> None:
    assert load_recipe(name).name == name


def test_yaml_round_trip_is_the_same_recipe() -> None:
    recipe = load_recipe("flickr8k-vse-infinity-selfalign", ["seed=7"])
    assert Recipe.model_validate(yaml.safe_load(recipe.to_yaml())) == recipe


def test_override_reads_yaml_values_and_creates_optional_parts() -> None:
    recipe = load_recipe("flickr8k-vse-infinity", ["objective.lca.concepts=64", "training.patience=3"])
    assert recipe.objective.lca is not None
    assert recipe.objective.lca.concepts == 64
    assert recipe.training.patience == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "unknown key 'training.epoch'"),
        ("training.epochs=many", "training.epochs"),
        ("training.epochs", "section.key=value"),
        ("name.x=3", "'name' is a value"),
        ("data.captions_per_image=2", "needs epoch: images"),
        ("optimizer.milestones=[1]", None),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str | None) -> None:
    if message is None:  # allowed: the recipe's schedule is stepwise
        assert load_recipe("flickr8k-vse-infinity", [override]).optimizer.milestones == (1,)
        return
    with pytest.raises(CrossAlignError, match=message.replace(".", r"\.")):
        load_recipe("flickr8k-vse-infinity", [override])


def test_extends_merges_and_another_kind_replaces(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "extends: flickr8k-vse-infinity\nname: mine\nobjective: {base: {kind: contrastive, temperature: 0.1}}\n"
    )
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert recipe.objective.base.kind == "contrastive"
    assert recipe.model.dim == load_recipe("flickr8k-vse-infinity").model.dim
    (tmp_path / "child.yaml").write_text("extends: mine.yaml\nname: child\n")
    assert load_recipe(tmp_path / "child.yaml").objective.base.kind == "contrastive"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: loop.yaml\nname: loop\n", "circle"),
        ("- a\n- b\n", "not a mapping"),
        ("name: [unclosed\n", "not valid YAML"),
        ("name: x\n", "data"),
        ("extends: nothing\n", "no recipe 'nothing'"),
    ],
)
def test_a_damaged_recipe_gives_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "loop.yaml").write_text(text)
    with pytest.raises(CrossAlignError, match=message) as caught:
        load_recipe(tmp_path / "loop.yaml")
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_the_recipes() -> None:
    with pytest.raises(CrossAlignError, match="flickr8k-vse-infinity"):
        load_recipe("flickr9k")
