"""Indexes of cut embeddings: exactly what cut vectors would find, and never mixed with others."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from colour_model import COLOURS, ColourModel, paint

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crossalign.encoders.words import WordTokenizer
from crossalign.errors import CrossAlignError
from crossalign.model import ModelConfig, RetrievalModel
from crossalign.search import SearchEngine, update_index
from crossalign.search.edge import EdgeStore
from crossalign.search.manifest import read_manifest
from crossalign.search.models import TruncatedModel
from crossalign.truncation import truncate
from test_model import BACKBONE, TEXTS

CAMERA = {"kind": "camera", "heads": 2, "views": 3, "channels": 4}


def build(**changes: Any) -> RetrievalModel:
    torch.manual_seed(0)
    values = {
        "dim": 12,
        "context_head": True,
        "image": {"backbones": [BACKBONE]},
        "text": {"encoder": {"kind": "gru", "word_dim": 8, "min_count": 1}},
        **changes,
    }
    tokenizer = WordTokenizer.build(TEXTS, min_count=1)
    return RetrievalModel(ModelConfig.model_validate(values), tokenizer=tokenizer).eval()


MODELS: dict[str, tuple[dict[str, Any], int, int]] = {
    "plain": ({"context_head": False}, 5, 1),
    "enriched": ({}, 12, 3),
    "enriched views": ({"image": {"backbones": [BACKBONE], "encoder": CAMERA}}, 12, 3),
    "projected": ({"embedding_size": 10}, 4, 1),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("exact", [False, True])
def test_a_search_finds_what_cut_vectors_find(
    kind: str, exact: bool, tmp_path: Path, tiny_photos: Callable[..., Any]
) -> None:
    changes, width, parts = MODELS[kind]
    photos = tiny_photos(7)
    model = build(**changes)
    model.save_pretrained(tmp_path / "model")
    summary = update_index(tmp_path / "model", photos.folder, tmp_path / "index", width=width, device="cpu")
    assert (summary.width, summary.fingerprint) == (width, model.fingerprint)
    image = truncate(model.encode_images([photos.folder / name for name in photos.names]), width, parts)
    text = truncate(model.encode_texts(TEXTS), width, parts)
    scores = model.similarity(image, text)
    with SearchEngine.open(tmp_path / "index", device="cpu") as engine:
        assert (engine.manifest.dim, engine.manifest.width) == (width, width)
        for column, said in enumerate(TEXTS):
            if not said:
                continue
            hits = engine.search_text(said, 7, exact=exact)
            order = scores[:, column].argsort(descending=True).tolist()
            assert [hit.file for hit in hits] == [photos.names[row] for row in order]
            found = torch.tensor([hit.score for hit in hits])
            torch.testing.assert_close(found, scores[order, column], rtol=1e-4, atol=1e-5)
        for name in photos.names:
            assert engine.search_image(photos.folder / name, 1, exact=exact)[0].file == name


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, colour in enumerate(COLOURS):
        paint(tmp_path / "photos" / f"{colour}.png", colour, seed)
    return tmp_path / "photos"


@pytest.mark.parametrize("views", [None, 3])
def test_updates_keep_the_width(photos: Path, tmp_path: Path, views: int | None) -> None:
    model = ColourModel(views=views)
    place = tmp_path / "index"
    update_index(model, photos, place, width=9)
    paint(photos / "late.png", "red", 99)
    assert update_index(model, photos, place, width=9).added == 1
    manifest = read_manifest(place / "index.json")
    store = EdgeStore.open(place / manifest.store, 9, views or 1)
    try:
        vectors = store.fetch(["late.png"])["late.png"].vectors
    finally:
        store.close()
    assert vectors is not None
    from PIL import Image

    expected = truncate(model.encode_images([Image.open(photos / "late.png")]), 9)
    torch.testing.assert_close(torch.from_numpy(vectors), expected.reshape(-1, 9))


@pytest.mark.parametrize(
    ("had", "asked", "said"),
    [
        (
            9,
            None,
            "holds embeddings of width 9, asked for are whole embeddings; give --width 9, or run the same",
        ),
        (
            None,
            9,
            "holds whole embeddings, asked for are embeddings of width 9; leave --width out, or run the same",
        ),
        (
            9,
            6,
            "holds embeddings of width 9, asked for are embeddings of width 6; give --width 9, or run the same",
        ),
    ],
)
def test_another_width_is_refused_and_taken_by_a_rebuild(
    photos: Path, tmp_path: Path, had: int | None, asked: int | None, said: str
) -> None:
    place, model = tmp_path / "index", ColourModel()
    update_index(model, photos, place, width=had)
    before = (place / "index.json").read_bytes()
    with pytest.raises(CrossAlignError) as caught:
        update_index(model, photos, place, width=asked)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (place / "index.json").read_bytes() == before
    with pytest.raises(CrossAlignError, match="built with another model"):
        update_index(ColourModel("other"), photos, place, width=asked)
    assert update_index(model, photos, place, width=asked, rebuild=True).added == 6
    with SearchEngine.open(place, model) as engine:
        assert (engine.manifest.width, engine.manifest.dim) == (asked, asked or 48)
        assert engine.encode_text("blue").shape == (1, asked or 48)


def test_a_width_that_the_model_does_not_have_leaves_nothing_behind(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match="width 49: the embedding has 48 numbers; give 1 to 48"):
        update_index(ColourModel(), photos, tmp_path / "index", width=49)
    build().save_pretrained(tmp_path / "model")
    with pytest.raises(CrossAlignError, match="width 10: the embedding has 36 numbers in 3 parts"):
        update_index(tmp_path / "model", photos, tmp_path / "index", width=10, device="cpu")
    scorer = {"context_weight": 0.0, "scorer": {"kind": "scan"}}
    build(**scorer).save_pretrained(tmp_path / "scorer")
    with pytest.raises(CrossAlignError, match=r"scores every pair of a photo and a text \(scan\)"):
        update_index(tmp_path / "scorer", photos, tmp_path / "index", width=6, device="cpu")
    assert not (tmp_path / "index").exists()


def test_an_index_from_before_there_were_widths_is_whole(photos: Path, tmp_path: Path) -> None:
    place, model = tmp_path / "index", ColourModel()
    update_index(model, photos, place)
    content = json.loads((place / "index.json").read_text())
    assert content.pop("width") is None
    (place / "index.json").write_text(json.dumps(content))
    assert update_index(model, photos, place).unchanged == 6
    with SearchEngine.open(place, model) as engine:
        assert engine.search_text("red", 1)[0].file == "red.png"


def test_a_cut_model_is_cut_again_from_what_it_gives() -> None:
    twice = TruncatedModel(TruncatedModel(ColourModel(), 24), 6)
    torch.testing.assert_close(
        twice.encode_texts_in(("cross",), ["red"])[0], truncate(ColourModel().encode_texts(["red"]), 6)
    )
    assert (twice.dim, twice.embedding_parts, twice.fingerprint) == (6, 1, ColourModel().fingerprint)
