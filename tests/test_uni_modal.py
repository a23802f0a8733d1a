"""Uni-modal heads: what they compute on every kind of tower, how they begin, and the space of the embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign import RetrievalModel
from crossalign.data.batch import ImageInputs
from crossalign.data.collection import Collection
from crossalign.data.features import FeatureStore
from crossalign.encode import encode_split, image_source, text_source
from crossalign.encoders.words import WordTokenizer
from crossalign.errors import CrossAlignError
from crossalign.model import ModelConfig
from crossalign.towers.uni_modal import UniModalHead
from toy_collection import WORDS, write_toy

DIM = 8
TEXTS = ["a red square", "blue", "a big green circle on the left", "red circle"]
KINDS: dict[str, dict[str, Any]] = {
    "pooled": {"kind": "pooled", "pooling": "gpo"},
    "vsrn": {"kind": "vsrn", "layers": 1},
    "camera": {"kind": "camera", "heads": 2, "views": 3, "channels": 4, "positions": False},
}
Kinds = pytest.mark.parametrize("kind", KINDS)


def build(kind: str = "pooled", head: dict[str, Any] | None = {}, **changes: Any) -> RetrievalModel:  # noqa: B006
    torch.manual_seed(0)
    values = {
        "dim": DIM,
        "uni_modal_head": head,
        "image": {"feature_dim": 6, "encoder": KINDS[kind]},
        "text": {"encoder": {"kind": "gru", "word_dim": 5, "min_count": 1}},
        **changes,
    }
    tokenizer = WordTokenizer.build([*TEXTS, " ".join(WORDS)], min_count=1)
    return RetrievalModel(ModelConfig.model_validate(values), tokenizer=tokenizer).eval()


def inputs() -> ImageInputs:
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]], dtype=torch.bool)
    return ImageInputs(features=torch.randn(3, 3, 6, generator=generator), mask=mask)


def plain_head(head: UniModalHead, base: Tensor) -> Tensor:
    rows = []
    for vector in base:
        centred = vector - vector.mean()
        normed = centred / (centred.square().mean() + 1e-5).sqrt() * head.norm.weight + head.norm.bias
        mapped = head.linear.weight @ normed + head.linear.bias
        rows.append(mapped / mapped.norm())
    return torch.stack(rows)


@Kinds
@pytest.mark.parametrize("size", [None, 3, 20])
def test_a_head_reads_the_base_embedding_and_leaves_it_as_it_is(kind: str, size: int | None) -> None:
    model = build(kind, {"size": size}, context_head=True)
    without = build(kind, None, context_head=True)
    for tower, given in (("image_tower", inputs()), ("text_tower", model.text_inputs(TEXTS))):
        with_head, bare = getattr(model, tower), getattr(without, tower)
        with torch.no_grad():
            for value in with_head.uni_modal_head.parameters():
                value += 0.1 * torch.randn_like(value)
        encoding, plain = with_head(given), bare(given)
        assert plain.unimodal is None
        assert torch.equal(encoding.embedding, plain.embedding)
        # The first D numbers of an enriched embedding are the base one.
        base = encoding.embedding[..., :DIM]
        expected = plain_head(with_head.uni_modal_head, base if base.dim() == 2 else base.mean(dim=1))
        torch.testing.assert_close(encoding.unimodal, expected)
        assert encoding.unimodal.shape == (len(base), size or DIM)


def test_other_weights_are_drawn_as_without_it() -> None:
    for head in ({}, {"size": 3}, {"size": 20}):
        own, bare = build(head=head).state_dict(), build(head=None).state_dict()
        assert {name for name in own if name not in bare} == {
            f"{tower}_tower.uni_modal_head.{part}"
            for tower in ("image", "text")
            for part in ("norm.weight", "norm.bias", "linear.weight", "linear.bias")
        }
        assert all(torch.equal(own[name], value) for name, value in bare.items())


def test_it_begins_with_the_cosines_of_the_base_embedding() -> None:
    base = F.normalize(torch.randn(50, 64, generator=torch.Generator().manual_seed(2)), dim=1)
    centred = F.normalize(base - base.mean(dim=1, keepdim=True), dim=1)
    for size in (64, 200):
        out = UniModalHead(64, size)(base)
        torch.testing.assert_close(out @ out.T, centred @ centred.T, atol=1e-5, rtol=1e-5)
    narrow = UniModalHead(64, 32)(base)
    rows = UniModalHead(64, 32).linear.weight
    torch.testing.assert_close(rows @ rows.T, torch.eye(32))
    assert np.corrcoef((narrow @ narrow.T).flatten().detach(), (base @ base.T).flatten())[0, 1] > 0.5


@Kinds
def test_its_loss_reaches_the_encoder_behind_it(kind: str) -> None:
    model = build(kind)
    encoding = model.image_tower(inputs())
    assert encoding.unimodal is not None
    (encoding.unimodal @ encoding.unimodal.T)[0, 1].backward()
    assert any(
        value.grad is not None and value.grad.abs().sum() > 0
        for value in model.image_tower.encoder.parameters()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_it_is_finite_float32_of_unit_norm(dtype: torch.dtype) -> None:
    head = UniModalHead(DIM, DIM)
    base = torch.randn(4, DIM).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = head(base)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.norm(dim=1), torch.ones(4))
    assert head(torch.zeros(2, DIM)).isfinite().all()


def test_embeddings_of_both_spaces() -> None:
    model = build(head={"size": 5})
    cross, uni = model.encode_texts(TEXTS), model.encode_texts(TEXTS, batch_size=2, space="uni")
    assert (cross.shape, uni.shape) == ((4, DIM), (4, 5))
    torch.testing.assert_close(uni, model.text_tower(model.text_inputs(TEXTS)).unimodal.detach())
    assert model.encode_texts([], space="uni").shape == (0, 5)
    cosines = F.cosine_similarity(uni[:, None], uni[None], dim=-1)
    torch.testing.assert_close(model.similarity(uni, uni), cosines)
    bare = build(head=None)
    with pytest.raises(CrossAlignError, match=r"no uni-modal heads.*model\.uni_modal_head: \{\}"):
        bare.encode_texts(TEXTS, space="uni")
    with pytest.raises(CrossAlignError, match="no uni-modal heads"):
        bare.encode_images([], space="uni")


def test_a_model_that_scores_pairs_has_uni_modal_embeddings() -> None:
    model = build(scorer={"kind": "scan"})
    assert model.encode_texts(TEXTS, space="uni").shape == (4, DIM)
    with pytest.raises(CrossAlignError, match="scores every pair"):
        model.encode_texts(TEXTS)


def test_a_split_in_both_spaces(tmp_path: Path) -> None:
    collection = Collection.load(write_toy(tmp_path / "toy", width=6))
    store = FeatureStore.open(collection.folder / "features" / "toy")
    split = collection.split("val")
    model = build("camera", {"size": 5})
    sources = image_source(model, collection, split, [store]), text_source(model, split, None)
    images, texts = encode_split(model, *sources, batch_size=4, space="uni")
    assert images.shape == (len(split.image_ids), 5)
    torch.testing.assert_close(texts, model.encode_texts(split.texts, space="uni"))
    assert encode_split(model, *sources)[0].shape == (len(split.image_ids), 3, DIM)
    with pytest.raises(CrossAlignError, match="no uni-modal heads"):
        encode_split(build("camera", None), *sources, space="uni")


def test_saved_and_loaded_it_is_the_same_and_without_it_the_folder_is_as_before(tmp_path: Path) -> None:
    model, bare = build(head={"size": 5}), build(head=None)
    model.save_pretrained(tmp_path / "with")
    bare.save_pretrained(tmp_path / "without")
    loaded = RetrievalModel.from_pretrained(tmp_path / "with")
    assert loaded.fingerprint == model.fingerprint != bare.fingerprint
    assert torch.equal(loaded.encode_texts(TEXTS, space="uni"), model.encode_texts(TEXTS, space="uni"))
    settings = json.loads((tmp_path / "without" / "config.json").read_text())
    assert "uni_modal_head" not in settings["model"]
    assert RetrievalModel.from_pretrained(tmp_path / "without").fingerprint == bare.fingerprint
    settings = json.loads((tmp_path / "with" / "config.json").read_text())
    assert settings["model"]["uni_modal_head"] == {"size": 5}
