"""Study files: strict, resolved as they read, and those of the package are valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_study import STUDY, Place

from crossalign.errors import CrossAlignError
from crossalign.study import available_studies, load_study, plan_runs
from crossalign.study.plan import chosen_variants
from crossalign.training.idle_settings import refuse_idle_settings


@pytest.mark.parametrize("name", available_studies())
def test_every_study_of_the_package_is_valid_and_each_variant_differs(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    recipes = [run.recipe.model_copy(update={"name": ""}) for run in plan_runs(study, [0])]
    assert len({recipe.model_dump_json() for recipe in recipes}) == len(study.variants)
    if study.plot is not None:
        assert study.numbers
    for recipe in recipes:
        refuse_idle_settings(recipe)


def test_the_flickr8k_study_changes_nothing_but_the_alignment() -> None:
    study = load_study("flickr8k-selfalign")
    recipes = {run.variant: run.recipe for run in plan_runs(study, [0])}
    for base in ("infinity", "camera", "vsrn"):
        whole = recipes[f"{base}+selfalign"]
        for part, lca, cra in (("", False, False), ("+lca", True, False), ("+cra", False, True)):
            recipe = recipes[base + part]
            assert (recipe.objective.lca is not None, recipe.objective.cra is not None) == (lca, cra)
            assert recipe.model.context_head is cra
            assert recipe.objective.lca in (None, whole.objective.lca)
            assert recipe.objective.cra in (None, whole.objective.cra)
            assert (recipe.data, recipe.optimizer, recipe.training) == (
                whole.data, whole.optimizer, whole.training
            )  # fmt: skip
            head = {"context_head": True, "context_units": whole.model.context_units}
            assert recipe.model.model_copy(update=head) == whole.model


def test_changes_apply_in_order_and_seeds_come_before_variants(place: Place) -> None:
    study = place.write(
        collection="elsewhere",
        set={"training.epochs": 2, "model.dim": 8, "data.train": "val"},
        variants={
            "base": {"recipe": "toy.yaml"},
            "wide": {"recipe": "toy.yaml", "set": ["model.dim=24", "training.epochs=5"]},
        },
    )
    planned = plan_runs(study, [3, 1], ["training.epochs=7"])
    assert [run.key for run in planned] == ["base-seed3", "wide-seed3", "base-seed1", "wide-seed1"]
    wide = planned[3].recipe
    assert (wide.name, wide.seed, wide.model.dim, wide.training.epochs) == ("tiny-wide", 1, 24, 7)
    assert (wide.data.collection, wide.data.train) == ("elsewhere", "val")
    assert planned[0].recipe.model.dim == 8


def test_a_list_of_settings_is_the_same_as_a_mapping(place: Place) -> None:
    values = {
        "training.epochs": 2,
        "objective.base": {"kind": "contrastive", "temperature": 0.1},
        "optimizer.learning_rate": 1e-05,
        "data.image_features": ["toy", "a, b"],
        "objective.cra": None,
        "data.collection": "2024-01-01",
    }
    listed = place.write(
        set=[
            "training.epochs=2",
            "objective.base={kind: contrastive, temperature: 0.1}",
            "optimizer.learning_rate=0.00001",
            'data.image_features=[toy, "a, b"]',
            "objective.cra=null",
            "data.collection='2024-01-01'",
        ]
    )
    one = plan_runs(listed, [0])[1].recipe
    assert one == plan_runs(place.write(set=values), [0])[1].recipe
    assert one.data.image_features == ("toy", "a, b")
    assert (one.optimizer.learning_rate, one.data.collection) == (1e-5, "2024-01-01")


def test_against_is_the_baseline_unless_told(place: Place) -> None:
    variants = {**STUDY["variants"], "alone": {"recipe": "toy.yaml", "against": None}}
    variants["other"] = {"recipe": "toy.yaml", "against": "+lca"}
    variants["both"] = {"recipe": "toy.yaml", "against": ["base", "other"]}
    study = place.write(variants=variants)
    assert [study.against(name) for name in variants] == [
        (),
        ("base",),
        (),
        ("+lca",),
        ("base", "other"),
    ]


def test_what_is_shown_is_the_same_study(place: Place, tmp_path: Path) -> None:
    for study in (load_study("controls"), load_study("codebook-size"), load_study(place.file)):
        (tmp_path / "shown.yaml").write_text(study.to_yaml())
        again = load_study(tmp_path / "shown.yaml")
        assert plan_runs(again, [0]) == plan_runs(study, [0])
        assert [again.against(name) for name in again.variants] == [
            study.against(name) for name in study.variants
        ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "bass"}, "baseline 'bass' is no variant; there are base, +lca"),
        ({"titel": "x"}, "unknown key 'titel'"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [0, 0]}, "one stands there twice"),
        ({"seeds": [-1]}, "seeds"),
        ({"seeds": [2**63]}, "seeds"),
        ({"name": "a/b"}, "'a/b' names files"),
        ({"variants": {"base": {"recipe": "toy.yaml", "sets": {}}}}, "unknown key 'variants.base.sets'"),
        ({"variants": {"base": {"recipe": "toy.yaml", "against": "base"}}}, "'base' is no other variant"),
        ({"variants": {"base": {"recipe": "toy.yaml", "against": "x"}}}, "'x' is no other variant"),
        (
            {"variants": {**STUDY["variants"], "new": {"recipe": "toy.yaml", "against": ["base", "base"]}}},
            "variants.new.against: 'base' stands there twice",
        ),
        ({"set": "training.epochs=2"}, "set"),
        ({"plot": {"x": "size"}}, "needs an x in two variants"),
    ],
)
def test_a_wrong_study_is_named_in_one_line(place: Place, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CrossAlignError) as caught:
        place.write(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_recipe_names_the_variant(place: Place) -> None:
    study = place.write(variants={"base": {"recipe": "toy.yaml", "set": {"training.epoch": 3}}})
    with pytest.raises(CrossAlignError, match=r"study tiny, variant base: .*unknown key 'training\.epoch'"):
        plan_runs(study, [0])
    study = place.write(set=["training.epochs"])
    with pytest.raises(CrossAlignError, match=r"base: --set training\.epochs: not of the form"):
        plan_runs(study, [0])
    study = place.write(variants={"base": {"recipe": "no-such"}})
    with pytest.raises(CrossAlignError, match="variant base: no recipe 'no-such'"):
        plan_runs(study, [0])


def test_studies_and_variants_that_are_not_there(place: Place, tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match="no study 'controlls'; there are codebook-size, controls"):
        load_study("controlls")
    with pytest.raises(CrossAlignError, match=r"none\.yaml: no such study file"):
        load_study(tmp_path / "none.yaml")
    place.file.write_text("name: [")
    with pytest.raises(CrossAlignError, match="not valid YAML"):
        load_study(place.file)
    place.file.write_text(yaml.safe_dump([1]))
    with pytest.raises(CrossAlignError, match="study"):
        load_study(place.file)
    study = place.write()
    assert chosen_variants(study, []) == ("base", "+lca")
    assert chosen_variants(study, ["+lca"]) == ("+lca",)
    with pytest.raises(CrossAlignError, match=r"no variant 'lca'; there are base, \+lca"):
        chosen_variants(study, ["lca"])


def test_a_file_that_is_no_text_or_no_yaml_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for content, message in (
        ("title: Größe".encode("latin-1"), r"mine\.yaml: not UTF-8 \(byte 9\); save it as UTF-8"),
        (b"title: 2024-13-45", r"mine\.yaml: not valid YAML \(month must be in 1\.\.12"),
    ):
        path.write_bytes(content)
        with pytest.raises(CrossAlignError, match=message):
            load_study(path)
