"""All four directions: photos and texts find photos and texts, each by the head made for it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colour_model import COLOURS, ColourModel, paint
from PIL import Image
from uni_model import WIDTH, UniModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crossalign.errors import CrossAlignError
from crossalign.search import SearchEngine, TextSearchEngine, text_sheet, update_index, update_text_index
from crossalign.search.edge import EdgeStore
from crossalign.search.manifest import read_manifest
from crossalign.search.models import embed_images, embed_texts, load_model
from crossalign.truncation import truncate
from toy_collection import write_toy

TEXTS = ["a red thing", "something blue", "green grass", "a red thing", "blue sky", "white snow", "  ", "red"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed in range(24):
        paint(tmp_path / "photos" / f"{seed:02d}.png", list(COLOURS)[seed % 6], seed)
    return tmp_path / "photos"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


def plain_best(items: dict[str, np.ndarray], query: np.ndarray, cosine: bool) -> list[tuple[str, float]]:
    """Items ``(V, D)`` by their best product with a query's rows, in plain loops."""
    scores = {}
    for name, views in items.items():
        found = []
        for view in views.astype(float):
            for row in query.astype(float):
                product = sum(float(a) * float(b) for a, b in zip(view, row, strict=True))
                found.append(product / (np.linalg.norm(view) * np.linalg.norm(row) if cosine else 1.0))
        scores[name] = max(found)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


def check(hits: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    assert [name for name, _ in hits] == [name for name, _ in expected[: len(hits)]]
    np.testing.assert_allclose(
        [score for _, score in hits], [score for _, score in expected[: len(hits)]], rtol=1e-4, atol=1e-6
    )


def seen(photos: Path, model: Any, space: str) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(photos.glob("*.png")):
        vectors = model.encode_images([Image.open(path)], space=space).numpy()
        found[path.name] = vectors.reshape(-1, vectors.shape[-1])
    return found


@pytest.mark.parametrize("views", [None, 3])
@pytest.mark.parametrize("exact", [False, True])
def test_photos_are_found_by_the_head_that_the_query_asks_for(
    tmp_path: Path, photos: Path, views: int | None, exact: bool
) -> None:
    model = UniModel(views=views)
    summary = update_index(model, photos, tmp_path / "index")
    assert summary.uni == WIDTH
    assert summary.vector_bytes == 24 * 4 * (48 * (views or 1) + WIDTH)
    cross, alone = seen(photos, model, "cross"), seen(photos, model, "uni")
    with SearchEngine.open(tmp_path / "index", model) as engine:
        assert (engine.compared("text").space, engine.compared("image").space) == ("cross", "uni")
        assert engine.compared("image").fallback is None
        for path in sorted(photos.glob("*.png")):
            hits = engine.search_image(path, 5, exact=exact)
            assert hits[0].path == path
            assert hits[0].score == pytest.approx(1.0, abs=1e-6)
            check([(hit.file, hit.score) for hit in hits], plain_best(alone, alone[path.name], False))
        for colour in COLOURS:
            query = model.encode_texts([colour]).numpy()
            hits = engine.search_text(colour, 6, exact=exact)
            check([(hit.file, hit.score) for hit in hits], plain_best(cross, query, False))
        with pytest.raises(CrossAlignError, match=f"vectors of {WIDTH}"):
            engine.search(np.ones((1, 48), np.float32), space="uni")


def test_renamed_photos_keep_both_embeddings(tmp_path: Path, photos: Path) -> None:
    model = UniModel()
    update_index(model, photos, tmp_path / "index")
    (photos / "05.png").rename(photos / "new.png")
    model.encoded = 0
    assert update_index(model, photos, tmp_path / "index").renamed == 1
    assert model.encoded == 0
    with SearchEngine.open(tmp_path / "index", model) as engine:
        assert engine.search_image(photos / "new.png", 1)[0].file == "new.png"
        assert engine.search_image(photos / "new.png", 1)[0].score == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("views", [None, 3])
def test_texts_are_found_by_the_head_that_the_query_asks_for(
    tmp_path: Path, photos: Path, texts: Path, views: int | None
) -> None:
    model = UniModel(views=views)
    summary = update_text_index(model, texts, batch_size=2)
    assert Path(summary.index) == texts.with_name("texts.txt.texts.index")
    assert (summary.texts, summary.added, summary.uni) == (6, 6, WIDTH)
    assert summary.vector_bytes == 6 * 4 * (48 + WIDTH)
    known = sorted({text.strip() for text in TEXTS if text.strip()})
    cross = dict(zip(known, model.encode_texts(known).numpy()[:, None], strict=True))
    alone = dict(zip(known, model.encode_texts(known, space="uni").numpy()[:, None], strict=True))
    with TextSearchEngine.open(summary.index, model) as engine:
        assert engine.count == 6
        assert (engine.compared("text").space, engine.compared("image").space) == ("uni", "cross")
        for text in known:
            hits = engine.search_text(text, 6)
            assert hits[0].text == text
            query = model.encode_texts([text], space="uni").numpy()
            check([(hit.text, hit.score) for hit in hits], plain_best(alone, query, False))
        for path in sorted(photos.glob("*.png"))[:6]:
            query = model.encode_images([Image.open(path)]).numpy().reshape(-1, 48)
            hits = engine.search_image(path, 6)
            check([(hit.text, hit.score) for hit in hits], plain_best(cross, query, False))
            assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6]
        assert next(hit for hit in hits if hit.text == "a red thing").ids == ("1", "4")
        assert json.loads(json.dumps(hits[0].as_dict()))["ids"] == list(hits[0].ids)


def test_without_heads_two_of_a_kind_are_compared_by_cosine_and_that_is_told(
    tmp_path: Path, photos: Path, texts: Path
) -> None:
    model = UniModel(heads=False)
    update_index(model, photos, tmp_path / "index")
    update_text_index(model, texts, tmp_path / "texts")
    with SearchEngine.open(tmp_path / "index", model) as engine:
        assert (engine.compared("image").cosine, engine.compared("text").cosine) == (True, False)
        assert engine.compared("image").fallback == "the model has no uni-modal heads"
        assert engine.compared("text").fallback is None
        assert engine.search_image(photos / "03.png", 1)[0].file == "03.png"
        for ask in (engine.encode_image, engine.encode_text):
            with pytest.raises(CrossAlignError, match="no uni-modal heads"):
                ask(str(photos / "03.png"), "uni")
    with TextSearchEngine.open(tmp_path / "texts", model) as engine:
        assert engine.compared("text").cosine
        hit = engine.search_text("blue sky", 1)[0]
        assert (hit.text, hit.score) == ("blue sky", 1.0)
    # An index that is older than its model's heads says so, and how to mend it.
    with SearchEngine.open(tmp_path / "index", UniModel()) as engine:
        assert re.search("crossalign index .* --rebuild", engine.compared("image").fallback or "")
        assert engine.search_image(photos / "03.png", 1)[0].file == "03.png"
        with pytest.raises(CrossAlignError, match="--rebuild"):
            engine.search(np.ones((1, WIDTH), np.float32), space="uni")
    assert update_index(UniModel(), photos, tmp_path / "index").uni is None
    assert update_index(UniModel(), photos, tmp_path / "index", rebuild=True).uni == WIDTH


def test_an_index_of_format_1_is_still_read(tmp_path: Path, photos: Path) -> None:
    model = ColourModel()
    update_index(model, photos, tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    content = json.loads(path.read_text())
    for key in ("uni", "texts", "split", "bank"):
        del content[key]
    path.write_text(json.dumps(content | {"format_version": 1}))
    with SearchEngine.open(tmp_path / "index", model) as engine:
        assert engine.search_image(photos / "03.png", 1)[0].file == "03.png"
    paint(photos / "more.png", "red", 99)
    assert update_index(model, photos, tmp_path / "index").added == 1
    assert json.loads(path.read_text())["format_version"] == 2
    path.write_text(json.dumps(content | {"format_version": 3}))
    with pytest.raises(CrossAlignError, match="format 3, this version reads 1 to 2"):
        read_manifest(path)


def test_texts_are_followed(tmp_path: Path, texts: Path) -> None:
    model = UniModel()
    update_text_index(model, texts, tmp_path / "index")
    assert update_text_index(model, texts, tmp_path / "index").unchanged == 6
    texts.write_text("\n".join(["new", "a red thing", "blue sky"]), encoding="utf-8")
    summary = update_text_index(model, texts, tmp_path / "index")
    assert (summary.added, summary.moved, summary.removed, summary.unchanged) == (1, 2, 4, 0)
    with TextSearchEngine.open(tmp_path / "index", model) as engine:
        assert {hit.text: hit.ids for hit in engine.search_text("red", 9)} == {
            "new": ("1",),
            "a red thing": ("2",),
            "blue sky": ("3",),
        }


def test_the_captions_of_a_collection(tmp_path: Path) -> None:
    folder = write_toy(tmp_path / "toy")
    model = UniModel()
    whole = update_text_index(model, folder, tmp_path / "index")
    part = update_text_index(model, folder, tmp_path / "part", split="test")
    assert 0 < part.texts < whole.texts
    with TextSearchEngine.open(tmp_path / "part", model) as engine:
        hits = engine.search_text("red", 1000)
    assert len(hits) == part.texts
    from crossalign.data.collection import Collection

    split = Collection.load(folder).split("test")
    assert {hit.text: hit.ids for hit in hits} == {
        text: tuple(i for i, t in zip(split.caption_ids, split.texts, strict=True) if t == text)
        for text in split.texts
    }
    with pytest.raises(CrossAlignError, match=r"holds the texts of .*split test.*--rebuild"):
        update_text_index(model, folder, tmp_path / "part")
    with pytest.raises(CrossAlignError, match="no split 'none'"):
        update_text_index(model, folder, tmp_path / "part", split="none")


def test_sources_without_texts_are_refused(tmp_path: Path, photos: Path, texts: Path) -> None:
    empty, other, long = tmp_path / "empty.txt", tmp_path / "latin.txt", tmp_path / "long.txt"
    empty.write_text("\n \n")
    other.write_bytes("Gr\u00fcn".encode("latin-1"))
    long.write_text("x" * 10_001)
    for source, split, message in (
        (empty, None, "no texts in it"),
        (other, None, "not UTF-8"),
        (long, None, "text 1 has 10001 characters"),
        (tmp_path / "none.txt", None, "cannot be read"),
        (photos, None, "no collection"),
        (texts, "test", "is a file and has no splits"),
    ):
        with pytest.raises(CrossAlignError, match=message) as caught:
            update_text_index(UniModel(), source, tmp_path / "index", split=split)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "index").exists()


def test_an_index_of_the_other_kind_is_refused(tmp_path: Path, photos: Path, texts: Path) -> None:
    model = UniModel()
    update_index(model, photos, tmp_path / "photos.index")
    update_text_index(model, texts, tmp_path / "texts.index")
    with pytest.raises(CrossAlignError, match="an index of texts, not of photos"):
        SearchEngine.open(tmp_path / "texts.index", model)
    with pytest.raises(CrossAlignError, match="an index of photos, not of texts"):
        TextSearchEngine.open(tmp_path / "photos.index", model)
    with pytest.raises(CrossAlignError, match=r"holds the texts of .*--rebuild"):
        update_index(model, photos, tmp_path / "texts.index")
    with pytest.raises(CrossAlignError, match=r"holds the photos of .*--rebuild"):
        update_text_index(model, texts, tmp_path / "photos.index")


def test_embeddings_of_both_spaces_and_a_width(tmp_path: Path, photos: Path) -> None:
    model = UniModel()
    picture = Image.open(photos / "01.png")
    cut = load_model(model, width=12)
    both = embed_images(cut, [picture], uni=True)
    assert (both.cross.shape, both.uni.shape) == ((1, 1, 12), (1, WIDTH))  # type: ignore[union-attr]
    assert embed_images(cut, [picture]).uni is None
    assert embed_texts(cut, ["red", "blue"], uni=True).uni.shape == (2, WIDTH)  # type: ignore[union-attr]
    update_index(model, photos, tmp_path / "index", width=12)
    with SearchEngine.open(tmp_path / "index", model) as engine:
        assert engine.search_image(photos / "01.png", 1)[0].file == "01.png"


def test_the_store_says_when_uni_modal_vectors_are_lost(tmp_path: Path) -> None:
    store = EdgeStore.create(tmp_path / "store", 4, 2, uni=3)
    random = np.random.default_rng(0)
    ids = [f"{item:03d}" for item in range(50)]
    alone = random.standard_normal((50, 3)).astype(np.float32)
    store.upsert(ids, random.standard_normal((50, 2, 4)), [{}] * 50, alone)
    store.optimize()
    store.verify(50)
    with pytest.raises(ValueError, match="uni-modal"):
        store.upsert(["x"], np.ones((1, 2, 4)), [{}])
    np.testing.assert_array_equal(store.fetch(["007"])["007"].uni, alone[7])
    for row in random.standard_normal((5, 3)).astype(np.float32):
        found = [(hit.id, hit.score) for hit in store.search(row[None], 5, space="uni")]
        check(found, plain_best(dict(zip(ids, alone[:, None], strict=True)), row[None], False))
    store.close()
    lost = list((tmp_path / "store").glob("segments/*/vector_storage-uni/**/*.mmap"))
    assert lost
    for path in lost:
        path.unlink()
    with pytest.raises(CrossAlignError, match="--rebuild"):
        EdgeStore.open(tmp_path / "store", 4, 2, uni=3, count=50)


def test_a_sheet_of_texts(tmp_path: Path, photos: Path, texts: Path) -> None:
    model = UniModel()
    update_text_index(model, texts, tmp_path / "index")
    with TextSearchEngine.open(tmp_path / "index", model) as engine:
        hits = engine.search_text("red", 6)
    few, many = text_sheet(hits[:1], "red"), text_sheet(hits, Image.open(photos / "00.png"), note="a note")
    assert many.height > few.height
    assert (
        np.asarray(text_sheet(hits[:2], "red")).tobytes()
        != np.asarray(text_sheet(hits[1:3], "red")).tobytes()
    )
    from dataclasses import replace

    with_photo = text_sheet([replace(hits[0], photos=(photos / "00.png",))], "red")
    assert with_photo.height > few.height
    assert text_sheet([], "red").width == few.width


def test_a_real_model_embeds_both_spaces_in_one_pass() -> None:
    from test_uni_modal import TEXTS as SENTENCES
    from test_uni_modal import build

    model = build("vsrn", {"size": 5})
    calls = []
    model.text_tower.register_forward_hook(lambda *_: calls.append(1))
    found = embed_texts(model, SENTENCES, uni=True)
    assert len(calls) == 1
    torch.testing.assert_close(torch.from_numpy(found.cross[:, 0]), model.encode_texts(SENTENCES))
    torch.testing.assert_close(torch.from_numpy(found.uni), model.encode_texts(SENTENCES, space="uni"))
    cut = embed_texts(load_model(model, width=4), SENTENCES, uni=True)
    torch.testing.assert_close(
        torch.from_numpy(cut.cross[:, 0]), truncate(model.encode_texts(SENTENCES), 4, model.embedding_parts)
    )
