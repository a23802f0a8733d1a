"""The terms csa and usa of the objective: on embeddings, views and scorers, beside the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crossalign.alignment import CrossModalSoftLabels, UniModalSoftLabels
from crossalign.data.batch import ImageInputs, TeacherFeatures
from crossalign.encoders.words import WordTokenizer
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.model import ModelConfig, RetrievalModel
from crossalign.objective import Objective, ObjectiveSettings
from crossalign.training.diagnostics import Diagnostics

DIM = 8
TEXTS = ["a red square", "blue", "a big green circle on the left", "red circle", "two blue stars"]
ROWS = torch.tensor([2, 1, 0, 1, 3])
CAMERA = {"kind": "camera", "heads": 2, "views": 3, "channels": 4, "positions": False}
MODELS: dict[str, dict[str, Any]] = {
    "pooled": {},
    "enriched": {"context_head": True},
    "camera": {"context_head": True, "image": {"feature_dim": 6, "encoder": CAMERA}},
    "scan": {"scorer": {"kind": "scan"}},
    "sgr": {"scorer": {"kind": "sgr", "similarity_dim": 4, "regions": 3, "dropout": 0.0}},
}


def build(changes: dict[str, Any]) -> RetrievalModel:
    torch.manual_seed(0)
    values = {
        "dim": DIM,
        "uni_modal_head": {"size": 5},
        "image": {"feature_dim": 6},
        "text": {"encoder": {"kind": "gru", "word_dim": 5, "min_count": 1}},
        **changes,
    }
    return RetrievalModel(
        ModelConfig.model_validate(values), tokenizer=WordTokenizer.build(TEXTS, min_count=1)
    )


def batch(model: RetrievalModel) -> tuple[Encoding, Encoding, TeacherFeatures]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    image = model.image_tower(ImageInputs(features=torch.randn(4, 3, 6, generator=generator), mask=mask))
    teachers = TeacherFeatures(torch.randn(4, 7, generator=generator), torch.randn(5, 9, generator=generator))
    return image, model.text_tower(model.text_inputs(TEXTS)), teachers


def objective(model: RetrievalModel, **settings: Any) -> Objective:
    return Objective(ObjectiveSettings.model_validate(settings), model.config)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("mode", ["each", "add", "dot"])
def test_they_are_the_modules_on_what_the_model_compares(kind: str, mode: Any) -> None:
    model = build(MODELS[kind])
    image, text, teachers = batch(model)
    scores = model.scores(image, text, keep_graph=True)
    settings = {"temperature": 0.3, "teacher_temperature": 0.7}
    found = objective(model, csa={"mode": mode, "weight": 0.25, **settings}, usa={"weight": 0.5, **settings})
    terms = found(scores, image, text, ROWS, teachers=teachers)
    assert list(terms) == ["hinge", "csa", "usa"]
    assert found.weights == {"hinge": 1.0, "csa": 0.25, "usa": 0.5}

    def cosines(vectors: Tensor) -> Tensor:
        return torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)

    of_teachers = cosines(teachers.image), cosines(teachers.text)
    expected = CrossModalSoftLabels(mode, 0.3, 0.7).from_scores(scores, *of_teachers, ROWS)
    torch.testing.assert_close(terms["csa"], expected)
    if kind == "pooled":
        by_cosine = CrossModalSoftLabels(mode, 0.3, 0.7)(
            image.embedding, text.embedding, teachers.image, teachers.text, ROWS
        )
        torch.testing.assert_close(terms["csa"], by_cosine)
    assert image.unimodal is not None
    assert text.unimodal is not None
    expected = UniModalSoftLabels(0.3, 0.7)(
        image.unimodal, text.unimodal, teachers.image, teachers.text, ROWS
    )
    torch.testing.assert_close(terms["usa"], expected)
    found.total(terms).backward()
    for part in (model.image_tower, model.text_tower):
        assert part.uni_modal_head is not None
        for value in part.uni_modal_head.parameters():
            assert value.grad is not None
            assert value.grad.isfinite().all()
    assert {name for name, value in found.named_parameters() if value.grad is not None} == {
        "csa.temperature",
        "usa.image_temperature",
        "usa.text_temperature",
    }


def test_they_work_beside_self_align_and_alone() -> None:
    model = build({"context_head": True})
    image, text, teachers = batch(model)
    scores = model.scores(image, text)
    settings = {"lca": {"concepts": 6}, "cra": {"hard_negatives": 4}, "csa": {}, "usa": {}}
    together = objective(model, **settings)(scores, image, text, ROWS, teachers=teachers)
    assert list(together) == ["hinge", "lca", "cra", "csa", "usa"]
    for name in ("csa", "usa"):
        alone = objective(model, **{name: {}})(scores, image, text, ROWS, teachers=teachers)
        assert list(alone) == ["hinge", name]
        assert torch.equal(alone[name], together[name])


def test_hardest_negatives_leave_no_pair_out_of_soft_labels() -> None:
    model = build({})
    hinge = {"kind": "hinge", "summed_epochs": 0}
    assert not objective(model, base=hinge, usa={}).dense
    assert objective(model, base=hinge, csa={}).dense


def test_fixed_temperatures_are_fixed() -> None:
    model = build({})
    fixed = {"temperature": 2.0, "learnable_temperature": False}
    found = objective(model, csa=fixed, usa=fixed)
    assert not [name for name, value in found.named_parameters() if value.requires_grad]
    with pytest.raises(CrossAlignError, match=r"temperature is 2\.0"):
        objective(model, csa={"temperature": 2.0})


def test_diagnostics_tell_gradients_and_temperatures() -> None:
    model = build({})
    image, text, teachers = batch(model)
    found = objective(model, csa={"temperature": 0.3}, usa={"temperature": 0.4})
    terms = found(model.scores(image, text), image, text, ROWS, teachers=teachers)
    numbers = Diagnostics(found)(found, terms, image, text, ROWS)
    assert numbers["csa_temperature"] == pytest.approx(0.3)
    assert numbers["usa_image_temperature"] == numbers["usa_text_temperature"] == pytest.approx(0.4)
    assert numbers["gradient_usa_unimodal"] > 0
    assert numbers["gradient_csa_embedding"] > 0
    assert "gradient_csa_unimodal" not in numbers


def test_uni_modal_soft_labels_without_heads_are_refused() -> None:
    model = build({"uni_modal_head": None})
    with pytest.raises(CrossAlignError, match=r"objective\.usa needs uni-modal heads: model\.uni_modal_head"):
        objective(model, usa={})
    assert objective(model, csa={}).usa is None
