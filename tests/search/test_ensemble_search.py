"""An ensemble is indexed and searched like a model: its scores are the mean of its members'."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from colour_model import COLOURS, paint
from scoring_model import build

from crossalign.ensemble import EnsembleModel, open_ensemble, write_ensemble
from crossalign.errors import CrossAlignError
from crossalign.model import RetrievalModel
from crossalign.search import SearchEngine, update_index
from crossalign.search.models import load_model


@pytest.fixture
def members(tmp_path: Path) -> tuple[Path, Path]:
    build(None).save_pretrained(tmp_path / "one")
    torch.manual_seed(5)
    other = build(None)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    other.save_pretrained(tmp_path / "two")
    for seed in range(8):
        paint(tmp_path / "photos" / f"{list(COLOURS)[seed % 6]} {seed}.png", list(COLOURS)[seed % 6], seed)
    return tmp_path / "one", tmp_path / "two"


def test_scores_of_a_search_are_the_mean_of_the_members(members: tuple[Path, Path], tmp_path: Path) -> None:
    write_ensemble(members, tmp_path / "both")
    update_index(tmp_path / "both", tmp_path / "photos", tmp_path / "index", device="cpu")
    photos = sorted((tmp_path / "photos").iterdir())
    expected = torch.zeros(len(photos))
    for member in members:
        model = RetrievalModel.from_pretrained(member)
        expected += (
            model.similarity(model.encode_images(photos), model.encode_texts(["a red thing"]))[:, 0] / 2
        )
    with SearchEngine.open(tmp_path / "index", device="cpu") as engine:
        hits = engine.search_text("a red thing", 8, exact=True)
        assert isinstance(engine.model, EnsembleModel)
        assert engine.model.dim == engine.manifest.dim
        liked = engine.search_image(photos[3], 1, exact=True)
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected.tolist(), reverse=True), abs=1e-5)
    best = {photo.name: score for photo, score in zip(photos, expected.tolist(), strict=True)}
    assert all(hit.score == pytest.approx(best[hit.file], abs=1e-5) for hit in hits)
    assert liked[0].file == photos[3].name
    assert liked[0].score == pytest.approx(1, abs=1e-5)
    # Another order of members is another space.
    write_ensemble(members[::-1], tmp_path / "turned")
    with pytest.raises(CrossAlignError, match="built with another model"):
        SearchEngine.open(tmp_path / "index", tmp_path / "turned", device="cpu")


def test_words_are_unknown_where_no_member_knows_them(members: tuple[Path, Path], tmp_path: Path) -> None:
    models = [RetrievalModel.from_pretrained(member) for member in members]
    ensemble = EnsembleModel(models)
    assert ensemble.unknown_words("a red zebra") == models[0].unknown_words("a red zebra") != ()


def test_what_cannot_be_indexed_is_told_in_one_line(members: tuple[Path, Path], tmp_path: Path) -> None:
    build("scan").save_pretrained(tmp_path / "slow")
    write_ensemble([members[0], tmp_path / "slow"], tmp_path / "mixed")
    write_ensemble(members, tmp_path / "standard", scale="standardised")
    write_ensemble(members, tmp_path / "both")
    for name, width, told in (
        ("mixed", None, "an ensemble with a model that scores pairs has no embeddings to index"),
        ("standard", None, "make the ensemble again with --scale raw"),
        ("both", 4, "--width cuts the embeddings of one model"),
    ):
        with pytest.raises(CrossAlignError, match=told) as caught:
            update_index(tmp_path / name, tmp_path / "photos", tmp_path / "index", width=width, device="cpu")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "index").exists()
    assert open_ensemble(tmp_path / "both").fingerprint == load_model(tmp_path / "both", "cpu").fingerprint
