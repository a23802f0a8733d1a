"""Training of embeddings of a chosen width: a resumed run equals an uninterrupted one, and it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_trainer import assert_same_run

from crossalign.model import RetrievalModel
from crossalign.recipe import load_recipe
from crossalign.training import trainer
from crossalign.training.trainer import train

PROJECTED = ["model.embedding_size=20"]


@pytest.mark.parametrize("changes", [PROJECTED], ids=["projected"])
@pytest.mark.parametrize("stop_at", [1, 5])
def test_resumed_equals_uninterrupted_bit_for_bit(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: list[str], stop_at: int
) -> None:
    recipe = load_recipe(toy, changes)
    train(recipe, tmp_path / "whole", progress=False)
    real, steps = trainer.check_finite, 0

    def interrupting(terms, norm, step, batch):  # type: ignore[no-untyped-def]
        nonlocal steps
        steps = step
        if step == stop_at and norm is not None:
            raise KeyboardInterrupt
        real(terms, norm, step, batch)

    monkeypatch.setattr(trainer, "check_finite", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "parts", progress=False)
    assert steps == stop_at
    monkeypatch.undo()
    torch.manual_seed(999)
    train(recipe, tmp_path / "parts", resume="auto", progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_projected_model_learns(toy: Path, tmp_path: Path) -> None:
    recipe = load_recipe(toy, [*PROJECTED, "objective.base={kind: contrastive}", "training.epochs=25"])
    # 10 images and about 20 captions: chance is near 10 + 50 + 100 percent each way.
    assert train(recipe, tmp_path / "run", progress=False).best_rsum > 400
    model = RetrievalModel.from_pretrained(tmp_path / "run")
    assert model.encode_texts(["red round", "blue"]).shape == (2, 20)
    start = RetrievalModel(model.config, tokenizer=model.text_tower.tokenizer)
    for trained, fresh in ((model.image_tower, start.image_tower), (model.text_tower, start.text_tower)):
        assert not torch.allclose(trained.projection.weight, fresh.projection.weight, atol=1e-3)
