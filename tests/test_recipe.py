"""Recipes: strict keys, overrides, inheritance."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from crossalign.errors import CrossAlignError
from crossalign.recipe import Recipe, available_recipes, load_recipe
from crossalign.training.idle_settings import refuse_idle_settings


@pytest.mark.parametrize("name", available_recipes())
def test_every_recipe_of_the_package_is_valid_and_bears_its_file_name(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    refuse_idle_settings(recipe)


def test_yaml_round_trip_is_the_same_recipe() -> None:
    recipe = load_recipe("flickr8k-vse-infinity-selfalign", ["seed=7"])
    assert Recipe.model_validate(yaml.safe_load(recipe.to_yaml())) == recipe


def test_override_reads_yaml_values_and_creates_optional_parts() -> None:
    recipe = load_recipe("flickr8k-vse-infinity-paper", ["objective.lca.concepts=64", "training.patience=3"])
    assert recipe.objective.lca is not None
    assert recipe.objective.lca.concepts == 64
    assert recipe.training.patience == 3


def test_precision_in_bits_may_stand_without_quotes() -> None:
    assert load_recipe("flickr8k-vse", ["training.precision=32"]).training.precision == "32"
    with pytest.raises(CrossAlignError, match=r"training\.precision"):
        load_recipe("flickr8k-vse", ["training.precision=16"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "unknown key 'training.epoch', did you mean epochs?"),
        ("model.scorer=scan", "model.scorer: give settings such as {kind: scan}, found scan"),
        ("model.scorer.kind=foo", "model.scorer.kind: 'foo' is none of scan, sgr, saf, sgraf"),
        ("training.epochs=zero", "training.epochs: input should be a valid integer, found 'zero'"),
        ("training.epochs=many", "training.epochs"),
        ("training.epochs", "section.key=value"),
        ("data.image_features=minilm", "data.image_features: give a list ([...]), found 'minilm'"),
        ("training.ema=0.9", "training.ema: give settings (key: value) such as {decay: ...}, found 0.9"),
        ("name.x=3", "name: input should be a valid string"),
        ("name=2024-13-45", "--set name=2024-13-45: the value is not valid YAML"),
        ("objective.base.temperature=1", "unknown key 'objective.base.temperature'"),
        ("objective.base.margin=-1", "objective.base.margin: input should be greater than 0"),
        ("objective.base.kind=triplet", "objective.base.kind: 'triplet' is none of hinge, contrastive"),
        ("seed=-1", "seed: input should be greater than or equal to 0"),
        ("seed=9223372036854775808", "seed: input should be less than 9223372036854775808"),
        ("optimizer.schedule=cosine", "optimizer: milestones need schedule: step"),
        ("optimizer.milestones=[]", "optimizer: schedule: step needs milestones"),
        ("optimizer={schedule: constant, milestones: [], gamma: 0.5}", "gamma needs schedule: step"),
        ("optimizer.final_fraction=0.1", "final_fraction needs schedule: cosine"),
        (
            "optimizer.backbone_learning_rate=0.1",
            "infinity-paper, as changed: optimizer.backbone_learning_rate is that of",
        ),
        ("data.captions_per_image=2", "needs epoch: images"),
        ("optimizer.milestones=[1]", None),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str | None) -> None:
    if message is None:  # allowed: the recipe's schedule is stepwise
        assert load_recipe("flickr8k-vse-infinity-paper", [override]).optimizer.milestones == (1,)
        return
    with pytest.raises(CrossAlignError, match=re.escape(message)) as caught:
        load_recipe("flickr8k-vse-infinity-paper", [override])
    assert "\n" not in str(caught.value)


def test_an_override_merges_and_another_kind_replaces() -> None:
    recipe = load_recipe("flickr8k-vse", ["model.image={encoder: {pooling: max}}"])
    plain = load_recipe("flickr8k-vse")
    assert recipe.model.image.encoder.pooling == "max"
    assert recipe.model.image.encoder.dropout == plain.model.image.encoder.dropout == 0.5
    assert recipe.model.image.region_dropout == plain.model.image.region_dropout == 0.2
    changes = ["objective.base.kind=contrastive", "objective.base.temperature=0.1"]
    for order in (changes, changes[::-1]):
        base = load_recipe("flickr8k-vse-infinity-paper", order).objective.base
        assert (base.kind, base.temperature) == ("contrastive", 0.1)
    same = load_recipe("flickr8k-vse-infinity-paper", ["objective.base={kind: hinge, summed_epochs: 3}"])
    assert (same.objective.base.margin, same.objective.base.summed_epochs) == (0.2, 3)


def test_a_part_that_names_no_kind_is_of_the_default_one(tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text("name: bare\ndata: {collection: x}\n")
    base = load_recipe(tmp_path / "bare.yaml", ["objective.base.margin=0.3"]).objective.base
    assert (base.kind, base.margin) == ("hinge", 0.3)
    (tmp_path / "parent.yaml").write_text(
        "extends: bare.yaml\nname: parent\nobjective: {base: {margin: 0.3}}\n"
    )
    (tmp_path / "same.yaml").write_text(
        "extends: parent.yaml\nname: same\nobjective: {base: {kind: hinge, summed_epochs: 0}}\n"
    )
    base = load_recipe(tmp_path / "same.yaml").objective.base
    assert (base.margin, base.summed_epochs) == (0.3, 0)
    (tmp_path / "words.yaml").write_text(
        "extends: parent.yaml\nname: words\nmodel: {text: {encoder: {min_count: 2}}}\n"
    )
    assert load_recipe(tmp_path / "words.yaml").model.text.encoder.kind == "gru"
    with pytest.raises(CrossAlignError, match=r"unknown key 'objective\.base\.temperature'"):
        load_recipe(tmp_path / "parent.yaml", ["objective.base.temperature=0.3"])


def test_a_backbone_rate_is_for_a_trained_backbone() -> None:
    assert load_recipe("scenes-vse").optimizer.backbone_learning_rate == 2e-3
    with pytest.raises(CrossAlignError, match="is that of fine-tuned backbones"):
        load_recipe("scenes-vse", ["model.image.train_backbone=false"])
    frozen = ["model.image.train_backbone=false", "optimizer.backbone_learning_rate=null"]
    assert not load_recipe("scenes-vse", frozen).model.image.train_backbone


def test_extends_merges_and_another_kind_replaces(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "extends: flickr8k-vse-infinity-paper\nname: mine\nobjective: {base: {kind: contrastive, temperature: 0.1}}\n"
    )
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert recipe.objective.base.kind == "contrastive"
    assert recipe.model.dim == load_recipe("flickr8k-vse-infinity-paper").model.dim
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
        ("name: caf\u00e9\n", "not UTF-8 (byte 9); save it as UTF-8"),
        ("name: 2024-13-45\n", "not valid YAML"),
    ],
)
def test_a_damaged_recipe_gives_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "loop.yaml").write_text(text, "latin-1")
    with pytest.raises(CrossAlignError, match=re.escape(message)) as caught:
        load_recipe(tmp_path / "loop.yaml")
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_the_recipes() -> None:
    with pytest.raises(CrossAlignError, match=r"there are flickr8k-.*scenes-vse"):
        load_recipe("nonsense")


def test_caption_pairs_need_an_image_with_two_captions() -> None:
    changes = ["data.epoch=images", "objective.lca.caption_pairs=0.5"]
    with pytest.raises(CrossAlignError, match=r"caption_pairs .* set data\.captions_per_image to 2 or more"):
        load_recipe("flickr8k-vse-selfalign", [*changes, "data.captions_per_image=1"])
    load_recipe("flickr8k-vse-selfalign", [*changes, "data.captions_per_image=2"])


def test_an_unknown_recipe_that_is_extended_names_who_says_so(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: nope\nname: mine\n")
    with pytest.raises(CrossAlignError, match=r"mine\.yaml, extends: no recipe 'nope'"):
        load_recipe(tmp_path / "mine.yaml")
