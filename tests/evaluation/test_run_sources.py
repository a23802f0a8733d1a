"""Which stores a command on a trained model takes, and where its result goes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crossalign.data.collection import Collection
from crossalign.data.features import FeatureWriter
from crossalign.evaluation.run_sources import (
    place_of_result,
    run_recipe,
    run_sources,
    short_name,
    told_inputs,
    told_name,
)
from photo_collection import paint, write_collection


def write_store(collection: Collection, name: str, kind: str) -> None:
    ids = [image.id for image in collection.images]
    if kind == "text":
        ids = [caption for split in collection.splits for caption in collection.split(split).caption_ids]
    (collection.folder / "features").mkdir(exist_ok=True)
    folder = collection.folder / "features" / name
    with FeatureWriter(
        folder, ids=ids, dim=4, units=1, dtype="float32", manifest={"kind": kind}, boxes=False
    ) as writer:
        writer.append([np.ones((1, 4)) for _ in ids])
        writer.finish()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on two image stores and one of captions, whose collection is beside it."""
    collection = write_collection(tmp_path / "collection", paint(tmp_path / "photos", 12))
    for name, kind in (("one", "image"), ("two", "image"), ("words", "text")):
        write_store(collection, name, kind)
    data = {
        "collection": str(collection.folder),
        "image_features": ["one", str(collection.folder / "features" / "two")],
        "text_features": "words",
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump({"name": "tiny", "data": data}))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("removed", "features", "taken", "name"),
    [
        ([], [], ["one", "two", "words"], "test-on-moved"),
        (["two"], [], ["words"], "test-on-moved-with-words"),
        (["words"], [], ["one", "two"], "test-on-moved-with-one+two"),
        (["one", "words"], [], [], "test-on-moved-raw"),
        ([], ["two"], ["two", "words"], "test-on-moved-with-two+words"),
    ],
    ids=["all", "no second", "no words", "neither", "named"],
)
def test_another_collection_gives_the_stores_of_the_same_names_that_it_has(
    run: Path, tmp_path: Path, removed: list[str], features: list[str], taken: list[str], name: str
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "collection", moved)
    for store in removed:
        shutil.rmtree(moved / "features" / store)
    sources, recipe = run_sources(run, moved, features), run_recipe(run)
    stores = [store for store in (*sources.image_stores, sources.text_store) if store is not None]
    assert [store.folder for store in stores] == [moved / "features" / store for store in taken]
    assert recipe is not None
    assert place_of_result(run, recipe, sources, "test", 1) == run / "results" / name
    images = ", ".join(store for store in taken if store != "words")
    assert told_inputs(sources) == (
        f"{moved}: images from {f'the stored features {images}' if images else 'the photos'}, "
        f"captions from {'the stored features words' if 'words' in taken else 'their words'}"
    )


def test_the_own_collection_gives_what_the_recipe_names(run: Path, tmp_path: Path) -> None:
    for collection in (None, tmp_path / "collection"):
        sources, recipe = run_sources(run, collection), run_recipe(run)
        assert [store.folder.name for store in sources.image_stores] == ["one", "two"]
        assert sources.text_store is not None
        assert recipe is not None
        assert place_of_result(run, recipe, sources, "val", 1) == run / "results" / "val"
    raw = run_sources(run, raw=True)
    assert (raw.image_stores, raw.text_store) == ((), None)
    assert place_of_result(run, recipe, raw, "test", 5) == run / "results" / "test-5-folds-raw"


@pytest.mark.parametrize(
    ("model", "short", "told"),
    [
        ("runs/scan", "scan", "runs/scan"),
        ("/data/runs/scan/model", "scan", "runs/scan"),
        ("../scan/", "scan", "scan"),
        ("scan", "scan", "scan"),
        ("someone/scan-flickr", "scan-flickr", "someone/scan-flickr"),
    ],
)
def test_a_second_model_goes_by_its_name(model: str, short: str, told: str) -> None:
    assert (short_name(model), told_name(model)) == (short, told)


def test_a_second_model_told_from_within_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scan" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "scan")
    assert [told_name(model) for model in (".", "model", "./model", Path("."))] == ["scan"] * 4
