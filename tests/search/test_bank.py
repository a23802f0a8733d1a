"""A query bank in an index: searches by words find what the inverted softmax over the bank puts first."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from colour_model import COLOURS, paint
from PIL import Image
from uni_model import UniModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crossalign.errors import CrossAlignError
from crossalign.search import SearchEngine, update_index
from crossalign.search.bank import MOST_TEXTS, bank_texts
from toy_collection import write_toy

BANK = ["red roses", "a blue sea", "green leaves", "yellow sun", "white wall", "black cat", "blue", "red"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed in range(24):
        paint(tmp_path / "photos" / f"{seed:02d}.png", list(COLOURS)[seed % 6], seed)
    return tmp_path / "photos"


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    path = tmp_path / "bank.txt"
    path.write_text("\n".join(BANK))
    return path


def plain_scores(photos: Path, model: UniModel, texts: list[str]) -> dict[str, list[float]]:
    rows = model.encode_texts(texts).numpy().astype(float)
    found = {}
    for path in sorted(photos.glob("*.png")):
        views = model.encode_images([Image.open(path)]).numpy().reshape(-1, 48).astype(float)
        found[path.name] = [max(float(view @ row) for view in views) for row in rows]
    return found


def corrected(photos: Path, model: UniModel, text: str, temperature: float) -> list[tuple[str, float]]:
    probes, asked = plain_scores(photos, model, BANK), plain_scores(photos, model, [text])
    scores = {}
    for name, of_bank in probes.items():
        mean = sum(math.exp((score - max(of_bank)) / temperature) for score in of_bank) / len(of_bank)
        scores[name] = asked[name][0] - max(of_bank) - temperature * math.log(mean)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize("views", [None, 3])
@pytest.mark.parametrize("exact", [False, True])
def test_searches_by_words_are_corrected(
    tmp_path: Path, photos: Path, bank: Path, views: int | None, exact: bool
) -> None:
    model = UniModel(views=views)
    summary = update_index(model, photos, tmp_path / "index", bank=bank, bank_temperature=0.7)
    assert summary.bank == len(BANK)
    update_index(model, photos, tmp_path / "plain")
    moved = 0
    with (
        SearchEngine.open(tmp_path / "index", model) as engine,
        SearchEngine.open(tmp_path / "plain", model) as plain,
    ):
        assert engine.manifest.bank is not None
        for colour in COLOURS:
            hits = engine.search_text(colour, 24, exact=exact)
            expected = corrected(photos, model, colour, 0.7)
            # By inner product the louder photos stand first.
            assert [hit.file for hit in hits] == [name for name, _ in expected]
            np.testing.assert_allclose(
                [hit.score for hit in hits], [score for _, score in expected], atol=1e-4
            )
            as_found = engine.search_text(colour, 24, exact=exact, hubness=False)
            same = plain.search_text(colour, 24, exact=exact)
            assert [hit.file for hit in as_found] == [hit.file for hit in same]
            np.testing.assert_allclose(
                [hit.score for hit in as_found], [hit.score for hit in same], atol=1e-5
            )
            moved += [hit.file for hit in as_found] != [hit.file for hit in hits]
        for path in sorted(photos.glob("*.png"))[:6]:
            assert engine.search_image(path, 1)[0].path == path
        with pytest.raises(CrossAlignError, match="corrects how texts find photos"):
            engine.search(engine.encode_image(photos / "00.png"), cosine=True, hubness=True)
        with pytest.raises(
            CrossAlignError, match=r"no query bank.*crossalign index .*--bank TEXTS .*--rebuild"
        ):
            plain.search_text("red", hubness=True)
    assert moved == len(COLOURS)


def test_cosines_leave_the_correction_out(tmp_path: Path, photos: Path, bank: Path) -> None:
    model = UniModel(heads=False)
    update_index(model, photos, tmp_path / "index", bank=bank)
    with SearchEngine.open(tmp_path / "index", model) as engine:
        for path in sorted(photos.glob("*.png")):
            hit = engine.search_image(path, 1)[0]
            assert (hit.path, hit.score) == (path, 1.0)


def test_an_update_keeps_the_bank(tmp_path: Path, photos: Path, bank: Path) -> None:
    model = UniModel()
    update_index(model, photos, tmp_path / "index", bank=bank, bank_temperature=0.7)
    bank.unlink()
    paint(photos / "new.png", "red", 99)
    (photos / "01.png").rename(photos / "moved.png")
    summary = update_index(model, photos, tmp_path / "index")
    assert (summary.added, summary.renamed, summary.bank) == (1, 1, len(BANK))
    with SearchEngine.open(tmp_path / "index", model) as engine:
        hits = engine.search_text("red", 25)
    assert [hit.file for hit in hits] == [name for name, _ in corrected(photos, model, "red", 0.7)]


def test_another_bank_needs_a_rebuild(tmp_path: Path, photos: Path, bank: Path) -> None:
    model, index = UniModel(), tmp_path / "index"
    update_index(model, photos, index)
    with pytest.raises(CrossAlignError, match=r"has no query bank; leave --bank out, or run .*--rebuild"):
        update_index(model, photos, index, bank=bank)
    assert update_index(model, photos, index, bank=bank, rebuild=True).bank == len(BANK)
    assert update_index(model, photos, index, bank=bank).unchanged == 24
    with pytest.raises(CrossAlignError, match="has another query bank"):
        update_index(model, photos, index, bank=bank, bank_temperature=0.3)
    assert update_index(model, photos, index, rebuild=True).bank is None
    with pytest.raises(CrossAlignError, match="nothing is corrected; give --bank too"):
        update_index(model, photos, index, bank_temperature=0.3)
    for temperature in (0.0, -1.0):
        with pytest.raises(CrossAlignError, match="give a positive number"):
            update_index(model, photos, index, bank=bank, bank_temperature=temperature)


def test_a_lost_bank_is_told(tmp_path: Path, photos: Path, bank: Path) -> None:
    model, index = UniModel(), tmp_path / "index"
    update_index(model, photos, index, bank=bank)
    (file,) = index.glob("store-*/bank.npz")
    file.write_bytes(b"damaged")
    with pytest.raises(CrossAlignError, match=r"bank.npz: missing or damaged.*--rebuild --bank"):
        update_index(model, photos, index)
    file.unlink()
    with pytest.raises(CrossAlignError, match=r"bank.npz: missing or damaged.*--rebuild --bank"):
        update_index(model, photos, index)
    # A search needs what is in the store alone.
    with SearchEngine.open(index, model) as engine:
        assert len(engine.search_text("red", 5)) == 5


def test_where_the_texts_of_a_bank_come_from(tmp_path: Path) -> None:
    folder = write_toy(tmp_path / "toy")
    from crossalign.data.collection import Collection

    texts, entry = bank_texts(folder, 0.1)
    assert texts == list(dict.fromkeys(Collection.load(folder).split("train").texts))
    assert (entry.texts, entry.source) == (len(texts), str(folder.resolve()))
    many = tmp_path / "many.txt"
    many.write_text("\n".join(f"text {number}" for number in range(12_001)))
    drawn, entry = bank_texts(many, 0.1)
    assert entry.texts == len(drawn) == len(set(drawn)) == MOST_TEXTS
    assert (drawn[0], drawn[-1]) == ("text 0", "text 12000")
