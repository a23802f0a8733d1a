"""Averages of dual encoders: weights of adapted ones are merged first, ensembles read photos in each model's way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_dual_training import recipe, source

from crossalign.data.collection import Collection
from crossalign.ensemble import open_ensemble, write_ensemble
from crossalign.evaluation.of_run import evaluate_run
from crossalign.model import RetrievalModel
from crossalign.training.average import average_run
from crossalign.training.checkpoint import load_checkpoint
from crossalign.training.state import kept_place
from crossalign.training.trainer import train

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from photo_collection import write_collection


@pytest.fixture
def collection(tmp_path: Path, tiny_photos: Callable[..., Any]) -> Collection:
    return write_collection(tmp_path / "collection", tiny_photos(24))


def test_the_mean_of_adapted_models_is_that_of_their_merged_weights(
    collection: Collection, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    dual = source(tmp_path / "clip", "clip") | {"lora": {"rank": 2}}
    chosen = recipe(collection, dual, training__keep_epochs=2, training__ema={"decay": 0.5})
    train(chosen, tmp_path / "run", progress=False)
    # Only what trains is averaged in training, and that is little.
    averaged = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["average"]
    assert any("lora_" in name for name in averaged)
    assert not any("base_layer" in name for name in averaged)
    result = average_run([tmp_path / "run"], tmp_path / "mean", count=2)
    mean = RetrievalModel.from_pretrained(tmp_path / "mean")
    assert mean.dual is not None
    assert mean.dual.settings.lora is None
    assert result.statistics_from > 0
    merged = []
    for epoch in (1, 2):
        model = RetrievalModel.from_pretrained(kept_place(tmp_path / "run", epoch))
        model.merge_lora()
        merged.append(model.state_dict())
    for name, value in mean.state_dict().items():
        if value.is_floating_point() and "running_" not in name:
            expected = (merged[0][name].double() + merged[1][name].double()) / 2
            torch.testing.assert_close(value, expected.float(), rtol=1e-6, atol=1e-7)
    assert evaluate_run(tmp_path / "mean", split="val").result.metrics["rsum"] == pytest.approx(
        result.validation_rsum
    )


def test_an_ensemble_of_two_dual_encoders_reads_photos_in_each_ones_way(
    collection: Collection, tmp_path: Path
) -> None:
    places = []
    for kind in ("clip", "siglip"):
        chosen = recipe(
            collection,
            source(tmp_path / f"{kind}-source", kind),
            model__context_head=kind == "clip",
            objective__cra={} if kind == "clip" else None,
            training__epochs=1,
        )
        train(chosen, tmp_path / kind, progress=False)
        places.append(tmp_path / kind)
    write_ensemble(places, tmp_path / "both")
    ensemble = open_ensemble(tmp_path / "both")
    photos = sorted(path for path in Path(collection.image_root).iterdir() if path.suffix == ".png")[:5]
    texts = ["a red square", "blue ground"]
    expected = torch.zeros(5, 2)
    for place in places:
        model = RetrievalModel.from_pretrained(place)
        expected += model.similarity(model.encode_images(photos), model.encode_texts(texts)) / 2
    found = ensemble.encode_images(photos) @ ensemble.encode_texts(texts).T  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)
    assert evaluate_run(tmp_path / "both", split="test").result.metrics["rsum"] >= 0
