"""A published checkpoint and the model folder made of it give the same embeddings, or units, and the same scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from crossalign.convert import LAYOUTS, convert_checkpoint, open_checkpoint
from crossalign.encoding import Encoding
from crossalign.model import RetrievalModel, scored_units
from published_cases import CASES, DIM, EMBEDDED, SCORED, Case, scan


def in_our_order(embedding: Tensor, blocks: list[int]) -> Tensor:
    parts = embedding.split(DIM, dim=-1)
    assert len(parts) == len(blocks)
    return torch.cat([parts[block] for block in blocks], dim=-1)


def embeddings(model: RetrievalModel, case: Case) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        return model.image_tower(case.photos.inputs()).embedding, model.encode_texts(case.captions)


@pytest.mark.parametrize(("kind", "words"), [("zip", "json"), ("stream", "pkl")])
@pytest.mark.parametrize("name", EMBEDDED)
def test_a_converted_checkpoint_is_the_published_model(
    tmp_path: Path, name: str, kind: str, words: str
) -> None:
    case = CASES[name]()
    done = convert_checkpoint(
        case.save(tmp_path / "model_best.pth.tar", kind),
        case.save_vocabulary(tmp_path / "vocabulary", words),
        tmp_path / "model",
    )
    assert done.layout == case.layout
    model = RetrievalModel.from_pretrained(tmp_path / "model")
    image, text = embeddings(model, case)
    expected_image = in_our_order(case.image(), case.blocks[0])
    expected_text = in_our_order(case.text(), case.blocks[1])
    assert image.shape == expected_image.shape
    assert text.shape == expected_text.shape
    torch.testing.assert_close(image, expected_image, atol=1e-5, rtol=0)
    torch.testing.assert_close(text, expected_text, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.similarity(image, text), case.similarity(), atol=1e-5, rtol=0)
    # What is compared tells all photos and all captions apart.
    assert torch.pdist(image.flatten(1)).min() > 0.02
    assert torch.pdist(text).min() > 0.02
    # One by one as together.
    for row, caption in enumerate(case.captions):
        torch.testing.assert_close(model.encode_texts([caption])[0], text[row], atol=1e-5, rtol=0)


def real_units(encoding: Encoding) -> Tensor:
    return scored_units(encoding).masked_fill(~encoding.mask.unsqueeze(-1), 0.0)


def encodings(model: RetrievalModel, case: Case) -> tuple[Encoding, Encoding]:
    return model.image_tower(case.photos.inputs()), model.text_tower(model.text_inputs(case.captions))


@pytest.mark.parametrize(("kind", "words"), [("zip", "json"), ("stream", "pkl")])
@pytest.mark.parametrize("name", SCORED)
@torch.inference_mode()
def test_a_converted_scorer_is_the_published_model(tmp_path: Path, name: str, kind: str, words: str) -> None:
    case = SCORED[name]()
    done = convert_checkpoint(
        case.save(tmp_path / "model_best.pth.tar", kind),
        case.save_vocabulary(tmp_path / "vocabulary", words),
        tmp_path / "model",
    )
    assert done.layout == case.layout
    model = RetrievalModel.from_pretrained(tmp_path / "model")
    image, text = encodings(model, case)
    torch.testing.assert_close(real_units(image), case.image(), atol=1e-5, rtol=0)
    torch.testing.assert_close(real_units(text), case.text(), atol=1e-5, rtol=0)
    scores, expected = model.scores(image, text), case.similarity()
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
    # What is compared tells all pairs apart.
    assert expected.flatten().sort().values.diff().min() > 5e-5
    # One by one as together.
    for row, caption in enumerate(case.captions):
        alone = model.scores(image, model.text_tower(model.text_inputs([caption])))
        torch.testing.assert_close(alone[:, 0], scores[:, row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize(
    "norm", ["clipped_l2norm", "l2norm", "clipped_l1norm", "l1norm", "softmax", "clipped", "no_norm"]
)
@torch.inference_mode()
def test_every_option_of_scan_has_its_setting(tmp_path: Path, direction: str, norm: str) -> None:
    for aggregation in ("LogSumExp", "Mean", "Max", "Sum"):
        case = scan(
            both=True, cross_attn=direction, raw_feature_norm=norm, agg_func=aggregation, lambda_lse=5
        )
        convert_checkpoint(
            case.save(tmp_path / "model_best.pth.tar", "zip"),
            case.save_vocabulary(tmp_path / "vocabulary", "json"),
            tmp_path / "model",
        )
        model = RetrievalModel.from_pretrained(tmp_path / "model")
        scores = model.scores(*encodings(model, case))
        torch.testing.assert_close(scores, case.similarity(), atol=1e-5, rtol=0)


def test_every_layout_is_proven() -> None:
    assert {layout.name for layout in LAYOUTS} == {make().layout for make in CASES.values()}


@pytest.mark.parametrize("name", CASES)
def test_a_layout_is_recognised_by_itself_alone(tmp_path: Path, name: str) -> None:
    case = CASES[name]()
    checkpoint = open_checkpoint(case.save(tmp_path / "model.pth.tar", "stream"))
    assert [layout.name for layout in LAYOUTS if layout.recognises(checkpoint)] == [case.layout]
