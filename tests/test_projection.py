"""Enriched embeddings of a chosen width: where the projection starts, what it computes, what it needs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from crossalign import RetrievalModel
from crossalign.data.batch import ImageInputs
from crossalign.encoders.words import WordTokenizer
from crossalign.errors import CrossAlignError
from crossalign.losses import HingeRankingLoss
from crossalign.model import ModelConfig
from crossalign.recipe import load_recipe
from crossalign.search import SearchEngine, update_index
from crossalign.towers.projection import EmbeddingProjection, starting_map
from test_model import BACKBONE

DIM = 8
TEXTS = ["a red square", "blue", "a big green circle on the left", "red circle", "two blue stars"]
POOLED = {"kind": "pooled", "pooling": "mean"}
CAMERA = {"kind": "camera", "heads": 2, "views": 3, "channels": 4, "positions": False}
SIZES = [3, DIM, DIM + 1, 2 * DIM, 3 * DIM]


def build(size: int | None, encoder: dict[str, Any] = POOLED, **changes: Any) -> RetrievalModel:
    torch.manual_seed(0)
    values = {
        "dim": DIM,
        "context_head": True,
        "embedding_size": size,
        "image": {"feature_dim": 6, "encoder": encoder},
        "text": {"encoder": {"kind": "gru", "word_dim": 5, "min_count": 1, "pooling": "mean"}},
        **changes,
    }
    tokenizer = WordTokenizer.build(TEXTS, min_count=1)
    return RetrievalModel(ModelConfig.model_validate(values), tokenizer=tokenizer).eval()


def inputs() -> ImageInputs:
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]], dtype=torch.bool)
    return ImageInputs(features=torch.randn(5, 3, 6, generator=generator), mask=mask)


def embeddings(model: RetrievalModel) -> tuple[Tensor, Tensor]:
    return (
        model.image_tower(inputs()).embedding,
        model.text_tower(model.text_inputs(TEXTS)).embedding,
    )


# ---- where it starts


@pytest.mark.parametrize("size", [DIM, DIM + 1, 2 * DIM])
def test_it_starts_with_the_base_similarity_and_a_part_of_that_of_the_context(size: int) -> None:
    whole, narrow = build(None), build(size)
    image, text = embeddings(whole)
    tail = starting_map(DIM, size)[DIM:, DIM:]
    torch.testing.assert_close(tail @ tail.T, torch.eye(size - DIM))
    base = image[:, :DIM] @ text[:, :DIM].T
    context = (image[:, DIM:] @ tail.T) @ (text[:, DIM:] @ tail.T).T
    assert size == DIM or context.abs().max() > 1e-3
    torch.testing.assert_close(narrow.similarity(*embeddings(narrow)), base + context)


def test_at_three_times_the_width_it_starts_with_the_enriched_embedding() -> None:
    for one, two in zip(embeddings(build(None)), embeddings(build(3 * DIM)), strict=True):
        torch.testing.assert_close(one, two)


def test_below_the_base_width_similarities_start_right_in_the_mean() -> None:
    dim, size, count = 96, 24, 3000
    generator = torch.Generator().manual_seed(3)
    one = F.normalize(torch.randn(count, dim, generator=generator), dim=1)
    two = F.normalize(one + 0.5 * F.normalize(torch.randn(count, dim, generator=generator), dim=1), dim=1)
    start = starting_map(dim, size)
    assert start[:, dim:].count_nonzero() == 0
    projected = ((one @ start[:, :dim].T) * (two @ start[:, :dim].T)).sum(dim=1)
    expected = (one * two).sum(dim=1)
    # The spread of one similarity is about 1 / sqrt(24), of the mean of 3,000 about 0.004.
    assert abs(float((projected - expected).mean())) < 0.02
    assert float((projected - expected).std()) < 0.3


@pytest.mark.parametrize("size", SIZES)
def test_both_towers_start_from_one_map_and_other_weights_are_drawn_as_without_it(size: int) -> None:
    plain, projected = build(None).state_dict(), build(size).state_dict()
    names = {f"{side}_tower.projection.weight" for side in ("image", "text")}
    assert projected.keys() - plain.keys() == names
    assert torch.equal(*(projected[name] for name in sorted(names)))
    assert all(torch.equal(plain[name], projected[name]) for name in plain)


# ---- what it computes


@pytest.mark.parametrize("encoder", [POOLED, CAMERA], ids=["one view", "three views"])
@pytest.mark.parametrize("size", [3, DIM])
def test_an_embedding_is_the_map_times_the_enriched_one(size: int, encoder: dict[str, Any]) -> None:
    model, whole = build(size, encoder), build(None, encoder)
    towers = (model.image_tower, model.text_tower)
    with torch.no_grad():
        for tower in towers:
            assert isinstance(tower.projection, EmbeddingProjection)
            tower.projection.weight.normal_()
    for tower, narrow, wide in zip(towers, embeddings(model), embeddings(whole), strict=True):
        assert narrow.shape == (*wide.shape[:-1], size)
        weight, narrow, wide = tower.projection.weight.detach(), narrow.detach(), wide.detach()
        rows, given = narrow.reshape(-1, size), wide.reshape(-1, 3 * DIM)
        for item in range(len(rows)):
            for number in range(size):
                expected = sum(float(weight[number, k] * given[item, k]) for k in range(3 * DIM))
                assert float(rows[item, number]) == pytest.approx(expected, abs=1e-4)
    assert model.dim == model.config.embedding_width == size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_stays_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    projection = EmbeddingProjection(DIM, 5)
    wide = torch.randn(4, 3 * DIM)
    with torch.autocast("cpu", dtype=dtype):
        narrow = projection(wide)
        assert projection(wide.to(dtype)).dtype == torch.float32
    assert torch.equal(narrow, F.linear(wide, projection.weight))


def test_gradients_reach_every_column_and_then_the_context_head() -> None:
    model = build(DIM).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss() -> Tensor:
        return HingeRankingLoss(negatives="all")(model.similarity(*embeddings(model)))

    loss().backward()
    for tower in (model.image_tower, model.text_tower):
        assert tower.projection is not None
        gradient = tower.projection.weight.grad
        assert gradient is not None
        assert all(part.abs().max() > 1e-4 for part in gradient.split(DIM, dim=1))
    optimizer.step()
    optimizer.zero_grad()
    loss().backward()
    for tower in (model.image_tower, model.text_tower):
        assert tower.context_head is not None
        assert tower.context_head.guide.weight.grad is not None
        assert tower.context_head.guide.weight.grad.abs().max() > 1e-6


# ---- saved, indexed, refused


def photo_model(size: int | None) -> RetrievalModel:
    return build(size, image={"backbones": [BACKBONE], "encoder": POOLED})


def test_saved_loaded_indexed_and_searched(tmp_path: Path, tiny_photos: Callable[..., Any]) -> None:
    photos = tiny_photos(5)
    paths = [photos.folder / name for name in photos.names]
    model = photo_model(5)
    with torch.no_grad():
        for tower in (model.image_tower, model.text_tower):
            tower.projection.weight.normal_()
    model.save_pretrained(tmp_path / "model")
    loaded = RetrievalModel.from_pretrained(tmp_path / "model")
    assert loaded.fingerprint == model.fingerprint != photo_model(5).fingerprint
    image, text = loaded.encode_images(paths), loaded.encode_texts(TEXTS)
    assert torch.equal(image, model.encode_images(paths))
    assert torch.equal(text, model.encode_texts(TEXTS))
    assert (image.shape, text.shape) == ((5, 5), (5, 5))
    assert loaded.encode_images([]).shape == (0, 5)
    update_index(tmp_path / "model", photos.folder, tmp_path / "index", device="cpu")
    with SearchEngine.open(tmp_path / "index", device="cpu") as engine:
        assert engine.manifest.dim == 5
        scores = model.similarity(image, text)
        for column, said in enumerate(TEXTS):
            hits = engine.search_text(said, 5)
            order = scores[:, column].argsort(descending=True).tolist()
            assert [hit.file for hit in hits] == [photos.names[row] for row in order]
            assert [hit.score for hit in hits] == pytest.approx(
                scores[order, column].tolist(), rel=1e-4, abs=1e-5
            )


def test_a_model_without_it_is_saved_and_named_as_before(tmp_path: Path) -> None:
    model = photo_model(None)
    model.save_pretrained(tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "config.json").read_text())["model"]
    assert "embedding_size" not in saved
    assert RetrievalModel.from_pretrained(tmp_path / "model").fingerprint == model.fingerprint
    photo_model(5).save_pretrained(tmp_path / "projected")
    saved = json.loads((tmp_path / "projected" / "config.json").read_text())["model"]
    assert saved["embedding_size"] == 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ["model.context_head=false"],
            "this one has none; set context_head: true and a context_weight above",
        ),
        (["model.context_weight=0"], "this one has none; set context_head: true and a context_weight above"),
        (["model.embedding_size=769"], "embedding_size is 769, wider than the 768 numbers it is made of"),
        (["model.embedding_size=0"], "model.embedding_size: input should be greater than 0"),
        (["model.embedding_size=2.5"], "model.embedding_size: input should be a valid integer"),
    ],
)
def test_refused_in_one_line(changes: list[str], said: str) -> None:
    start = ["model.embedding_size=64", "objective.cra=null"]
    with pytest.raises(CrossAlignError) as caught:
        load_recipe("flickr8k-vse-infinity-selfalign", [*start, *changes])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
