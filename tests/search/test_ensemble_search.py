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


def test_pictures_are_compared_by_the_heads_of_all_members(tmp_path: Path) -> None:
    for seed in range(8):
        paint(tmp_path / "photos" / f"{seed}.png", list(COLOURS)[seed % 6], seed)
    photos = sorted((tmp_path / "photos").iterdir())
    models = [build(None, uni=5), build(None, uni=7)]
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / f"heads-{number}")
    build(None).save_pretrained(tmp_path / "plain")
    write_ensemble([tmp_path / "heads-0", tmp_path / "heads-1"], tmp_path / "both")
    assert update_index(tmp_path / "both", tmp_path / "photos", tmp_path / "index", device="cpu").uni == 12
    expected = torch.stack(
        [model.similarity(*2 * [model.encode_images(photos, space="uni")])[3] for model in models]
    ).mean(dim=0)
    passes: list[int] = []
    with SearchEngine.open(tmp_path / "index", device="cpu") as engine:
        assert engine.compared("image").fallback is None
        assert isinstance(engine.model, EnsembleModel)
        for member in engine.model.models:
            member.image_tower.register_forward_hook(lambda *_: passes.append(1))
        hits = engine.search_image(photos[3], 8, exact=True)
    assert len(passes) == 2
    found = {hit.file: hit.score for hit in hits}
    assert hits[0].file == "3.png"
    assert [found[photo.name] for photo in photos] == pytest.approx(expected.tolist(), abs=1e-5)
    # One member without heads, and there is no such embedding.
    write_ensemble([tmp_path / "heads-0", tmp_path / "plain"], tmp_path / "half")
    half = open_ensemble(tmp_path / "half")
    assert half.uni_modal_width is None
    with pytest.raises(CrossAlignError, match="no uni-modal heads"):
        half.require_embeddings("uni")
    index = tmp_path / "half.index"
    assert update_index(half, tmp_path / "photos", index).uni is None
    with SearchEngine.open(index, half) as engine:
        assert engine.compared("image").fallback == "the model has no uni-modal heads"


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
