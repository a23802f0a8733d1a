"""Searching by words and by pictures, against plain loops."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_model import COLOURS, ColourModel, paint
from PIL import Image
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.search import SearchEngine, update_index


@pytest.fixture(params=[None, 3], ids=["one view", "three views"])
def engine(request: pytest.FixtureRequest, tmp_path: Path):  # type: ignore[no-untyped-def]
    photos = tmp_path / "photos"
    for seed in range(24):
        colour = list(COLOURS)[seed % 6]
        paint(photos / ("sub" if seed % 2 else "") / f"{colour} {seed} ünï 写真.png", colour, seed)
    # Norm 3 for all: scores beyond 1 show that nothing is normalised on the way.
    model = ColourModel(views=request.param, scale=3.0)
    update_index(model, photos, tmp_path / "index")
    with SearchEngine.open(tmp_path / "index", model) as opened:
        yield opened


def _oracle(engine: SearchEngine, query: np.ndarray) -> list[tuple[str, float]]:
    scores = []
    for path in sorted(engine.photos.rglob("*.png")):
        views = engine.model.encode_images([Image.open(path)]).numpy().reshape(-1, query.shape[1])
        best = max(float(np.dot(view, row)) for view in views for row in query)
        scores.append((path.relative_to(engine.photos).as_posix(), best))
    return sorted(scores, key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize("exact", [False, True])
def test_text_search_orders_by_inner_product(engine: SearchEngine, exact: bool) -> None:
    hits = engine.search_text("a red thing", 24, exact=exact)
    expected = _oracle(engine, engine.encode_text("a red thing"))
    assert [hit.file for hit in hits] == [file for file, _ in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], rtol=1e-4)
    assert [hit.rank for hit in hits] == list(range(1, 25))
    assert [hit.file.split("/")[-1][:3] for hit in hits[:4]] == ["red"] * 4
    assert hits[0].score > 1.5
    assert (hits[0].width, hits[0].height, hits[0].missing) == (40, 30, False)
    assert hits[0].path == engine.photos / hits[0].file


def test_picture_search_finds_the_picture_itself_first(engine: SearchEngine) -> None:
    for path in engine.photos.rglob("*.png"):
        for image in (path, str(path), Image.open(path)):
            hits = engine.search_image(image, 3)
            assert hits[0].path == path
    query = engine.encode_image(path)
    assert query.shape == (engine.manifest.views, 48)
    assert [hit.file for hit in engine.search(query, 24)] == [file for file, _ in _oracle(engine, query)]


class LoudModel(ColourModel):
    """Embeddings whose norms differ from photo to photo, as those of a model with a context head do."""

    def encode_images(
        self, images: Sequence[Image.Image], batch_size: int = 32, progress: bool = False
    ) -> Tensor:
        vectors = super().encode_images(images, batch_size, progress)
        loudness = torch.tensor([1.0 + np.asarray(image).sum() % 13 for image in images])
        return vectors * loudness.view(-1, *[1] * (vectors.dim() - 1)).float()


@pytest.mark.parametrize("views", [None, 3])
def test_pictures_are_compared_by_cosine(tmp_path: Path, views: int | None) -> None:
    photos = tmp_path / "photos"
    for seed in range(24):
        paint(photos / f"{seed:02d}.png", list(COLOURS)[seed % 6], seed)
    shutil.copy(photos / "07.png", photos / "06 the same.png")
    model = LoudModel(views=views)
    update_index(model, photos, tmp_path / "index")
    first = []
    with SearchEngine.open(tmp_path / "index", model) as engine:
        for path in sorted(photos.glob("*.png")):
            hits = engine.search_image(path, 25)
            query = engine.encode_image(path)
            first.append(engine.search(query, 1)[0].path == path)
            cosines = {}
            for other in photos.glob("*.png"):
                seen = engine.encode_image(other)
                cosines[other.name] = max(
                    float(np.dot(view, row) / np.linalg.norm(view) / np.linalg.norm(row))
                    for view in seen.astype(float)
                    for row in query.astype(float)
                )
            scores = [hit.score for hit in hits]
            np.testing.assert_allclose(scores, [cosines[hit.file] for hit in hits], atol=1e-6)
            assert sorted(cosines.values(), reverse=True) == pytest.approx(scores, abs=1e-6)
            assert scores[0] == 1.0
            assert hits[0].path == path or path.name == "07.png"
            assert [hit.rank for hit in hits] == list(range(1, 26))
        # Equal ones by file, though one was asked for by the other's name.
        same = engine.search_image(photos / "07.png", 2)
        assert [hit.file for hit in same] == ["06 the same.png", "07.png"]
        assert engine.search_image(photos / "03.png", 1, folder="nowhere") == []
    assert not all(first), "by inner product a louder photo would be first"


def test_folder_filter(engine: SearchEngine) -> None:
    for folder in ("sub", "sub/", "/sub/"):
        hits = engine.search_text("red", 24, folder=folder)
        assert len(hits) == 12
        assert all(hit.file.startswith("sub/") for hit in hits)
    assert len(engine.search_text("red", 24, folder=".")) == 24
    assert engine.search_text("red", 24, folder="su") == []


def test_missing_photos_are_marked(engine: SearchEngine) -> None:
    hit = engine.search_text("blue", 1)[0]
    hit.path.unlink()
    again = engine.search_text("blue", 2)
    assert [(found.file, found.missing) for found in again] == [(hit.file, True), (again[1].file, False)]


def test_bad_questions(engine: SearchEngine) -> None:
    for text in ("", "  \n"):
        with pytest.raises(CrossAlignError, match="empty"):
            engine.search_text(text)
    with pytest.raises(CrossAlignError, match="at least one"):
        engine.search_text("red", 0)
    with pytest.raises(CrossAlignError, match="vectors of 48"):
        engine.search(np.ones((1, 47), np.float32))
    with pytest.raises(CrossAlignError, match="no such photo"):
        engine.search_image(engine.photos / "nothing.png")
    assert len(engine.search_text("red", 1000)) == 24


def test_several_threads_get_the_same_answers(engine: SearchEngine) -> None:
    expected = {colour: engine.search_text(colour, 5) for colour in COLOURS}
    wrong: list[str] = []

    def ask(colour: str) -> None:
        for _ in range(20):
            if engine.search_text(colour, 5) != expected[colour]:
                wrong.append(colour)

    threads = [threading.Thread(target=ask, args=(colour,)) for colour in COLOURS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_index_without_a_place_of_its_model_asks_for_it(engine: SearchEngine) -> None:
    with pytest.raises(CrossAlignError, match="--model"):
        SearchEngine.open(engine.photos.with_name("index"))


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match=r"no index here.*crossalign index MODEL FOLDER"):
        SearchEngine.open(tmp_path)
