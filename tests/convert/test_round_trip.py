"""A published checkpoint and the model folder made of it give the same embeddings and similarities."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from crossalign.convert import LAYOUTS, convert_checkpoint, open_checkpoint
from crossalign.model import RetrievalModel
from published_cases import CASES, DIM, Case


def in_our_order(embedding: Tensor, blocks: list[int]) -> Tensor:
    parts = embedding.split(DIM, dim=-1)
    assert len(parts) == len(blocks)
    return torch.cat([parts[block] for block in blocks], dim=-1)


def embeddings(model: RetrievalModel, case: Case) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        return model.image_tower(case.photos.inputs()).embedding, model.encode_texts(case.captions)


@pytest.mark.parametrize(("kind", "words"), [("zip", "json"), ("stream", "pkl")])
@pytest.mark.parametrize("name", CASES)
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


def test_every_layout_is_proven() -> None:
    assert {layout.name for layout in LAYOUTS} == {make().layout for make in CASES.values()}


@pytest.mark.parametrize("name", CASES)
def test_a_layout_is_recognised_by_itself_alone(tmp_path: Path, name: str) -> None:
    case = CASES[name]()
    checkpoint = open_checkpoint(case.save(tmp_path / "model.pth.tar", "stream"))
    assert [layout.name for layout in LAYOUTS if layout.recognises(checkpoint)] == [case.layout]
