"""Re-ranking: photos in a scorer's order, against plain loops; what is kept, what is left out, what is refused."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from colour_model import COLOURS, ColourModel, paint
from scoring_model import KINDS, ROUNDING, UNITS, build, check_best, counted, one_score, with_boxes

from crossalign.errors import CrossAlignError
from crossalign.search import Failure, PhotoReranker, SearchEngine, reranked, update_index
from crossalign.search.scan import FileState
from crossalign.search.unit_cache import UnitCache

OLD = 1_500_000_000_000_000_000


@pytest.fixture
def engine(tmp_path: Path):  # type: ignore[no-untyped-def]
    """An index of photos that are all of other shapes and colours, and long untouched."""
    photos = tmp_path / "photos"
    for seed in range(15):
        place = photos / ("sub" if seed % 2 else "") / f"{list(COLOURS)[seed % 6]} {seed}.png"
        paint(place, list(COLOURS)[seed % 6], seed, (40 + 4 * (seed % 5), 30 + seed))
        os.utime(place, ns=(OLD + seed, OLD + seed))
    model = ColourModel()
    update_index(model, photos, tmp_path / "index")
    with SearchEngine.open(tmp_path / "index", model) as opened:
        yield opened


@pytest.mark.parametrize("regions", ["grid", "boxes"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_best_of_the_index_stand_in_the_scorers_order(
    engine: SearchEngine, kind: str, regions: str
) -> None:
    model = build(kind) if regions == "grid" else with_boxes(kind)
    text = "a red thing"
    first = engine.search_text(text, 9)
    hits = engine.search_text(text, 4, rerank=PhotoReranker(model, batch_size=2), rerank_top=9)
    check_best(hits, model, text, first)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    assert [hit.file for hit in hits] != [hit.file for hit in first[:4]]
    was = {hit.file: hit for hit in first}
    for hit in hits:
        # Everything but its place is what the search has found.
        assert (
            replace(hit, rank=was[hit.file].rank, score=was[hit.file].score, first_score=None)
            == was[hit.file]
        )
        assert hit.first_score == was[hit.file].score


def test_at_least_as_many_are_looked_at_as_are_wanted(engine: SearchEngine) -> None:
    model = build("scan")
    reranker = PhotoReranker(model)
    hits = engine.search_text("a blue thing", 12, rerank=reranker, rerank_top=3)
    assert len(hits) == 12
    check_best(hits, model, "a blue thing", engine.search_text("a blue thing", 12))
    # More than there are.
    assert len(engine.search_text("a blue thing", 3, rerank=reranker, rerank_top=1000)) == 3
    assert engine.search_text("a blue thing", 3, folder="nowhere", rerank=reranker) == []
    within = engine.search_text("a blue thing", 3, folder="sub", rerank=reranker)
    assert [hit.file[:4] for hit in within] == ["sub/"] * 3


def test_a_photo_is_encoded_once_in_batches(engine: SearchEngine) -> None:
    model = build("sgr")
    reranker, sizes = PhotoReranker(model, batch_size=4), counted(model)
    hits = engine.search_text("red", 10, rerank=reranker, rerank_top=10)
    assert sizes == [4, 4, 2]
    assert engine.search_text("red", 10, rerank=reranker, rerank_top=10) == hits
    assert sizes == [4, 4, 2]
    # Other words, and five photos more.
    other = engine.search_text("green", 15, rerank=reranker)
    assert sizes == [4, 4, 2, 4, 1]
    check_best(other, model, "green", engine.search_text("green", 15))


def test_a_changed_photo_is_encoded_again(engine: SearchEngine) -> None:
    model = build("scan")
    reranker, sizes = PhotoReranker(model), counted(model)
    first = engine.search_text("red", 15, rerank=reranker)
    path = first[0].path
    size = path.stat().st_size
    paint(path, "yellow", 99, (56, 31))
    os.utime(path, ns=(OLD + 500, OLD + 500))
    assert path.stat().st_size != size
    del sizes[:]
    again = engine.search_text("red", 15, rerank=reranker)
    assert sizes == [1]
    scores = {hit.file: hit.score for hit in again}
    assert scores[first[0].file] == pytest.approx(one_score(model, "red", path), abs=ROUNDING)
    assert scores[first[0].file] != pytest.approx(first[0].score, abs=1e-4)
    assert {hit.file: hit.score for hit in first[1:]} == {
        file: score for file, score in scores.items() if file != first[0].file
    }
    # The time of a photo changed just now cannot be trusted: it may change again within the same tick.
    os.utime(path)
    for _ in range(2):
        del sizes[:]
        once_more = engine.search_text("red", 15, rerank=reranker)
        assert {hit.file: hit.score for hit in once_more} == pytest.approx(scores)
        assert sizes == [1]


def test_no_more_is_kept_than_there_is_room_for(engine: SearchEngine) -> None:
    model = build("scan")
    one = UNITS * 12 * 4
    sizes = counted(model)
    expected = engine.search_text("red", 5, rerank=PhotoReranker(model), rerank_top=5)
    for room, encoded_again in ((0, 5), (one - 1, 5), (5 * one, 0), (7 * one, 0)):
        reranker = PhotoReranker(model, cache_bytes=room)
        assert engine.search_text("red", 5, rerank=reranker, rerank_top=5) == expected
        del sizes[:]
        assert engine.search_text("red", 5, rerank=reranker, rerank_top=5) == expected
        assert sum(sizes) == encoded_again


def test_what_was_asked_for_longest_ago_makes_room(tmp_path: Path) -> None:
    cache = UnitCache(3 * 40)
    photos = [paint(tmp_path / f"{seed}.png", "red", seed) for seed in range(5)]
    states = [FileState(photo.stat().st_size, photo.stat().st_mtime_ns) for photo in photos]
    batch = torch.randn(50, 5)

    def kept() -> list[bool]:
        return [photo in cache._entries for photo in photos]

    for photo, state in zip(photos[:3], states[:3], strict=True):
        cache.put(photo, state, batch[:2])
    units = cache.get(photos[0])
    assert units is not None
    assert torch.equal(units, batch[:2])
    assert units.untyped_storage().nbytes() == 40
    cache.put(photos[3], states[3], batch[:2])
    assert kept() == [True, False, True, True, False]
    # The same again takes no more room, a larger one pushes out two.
    cache.put(photos[3], states[3], batch[2:4])
    assert kept() == [True, False, True, True, False]
    cache.put(photos[4], states[4], batch[:4])
    assert kept() == [False, False, False, True, True]
    cache.put(photos[0], states[0], batch[:7])
    assert kept() == [False] * 5
    cache.put(photos[0], states[0], batch[:6])
    assert kept() == [True, False, False, False, False]


def test_photos_that_cannot_be_read_stay_behind_in_their_order(engine: SearchEngine) -> None:
    model = build("saf")
    reranker = PhotoReranker(model, batch_size=3)
    first = engine.search_text("white", 8)
    # One of them is in the cache already.
    reranker.scores("white", [first[2].path])
    first[2].path.unlink()
    first[0].path.write_text("not a picture")
    first[5].path.write_bytes(b"")
    hits = engine.search_text("white", 8, rerank=reranker, rerank_top=8)
    good = [hit for number, hit in enumerate(first) if number not in (0, 2, 5)]
    check_best(hits[:5], model, "white", good)
    assert [(hit.file, hit.problem, hit.missing) for hit in hits[5:]] == [
        (first[0].file, "not a picture", False),
        (first[2].file, "No such file or directory", True),
        (first[5].file, "empty file", False),
    ]
    assert [hit.first_score for hit in hits[5:]] == [first[number].score for number in (0, 2, 5)]
    assert all(math.isnan(hit.score) for hit in hits[5:])
    assert [hit.rank for hit in hits] == list(range(1, 9))
    assert [hit.problem for hit in hits[:5]] == [None] * 5
    assert hits[5].as_dict()["score"] is None
    assert hits[4].as_dict()["score"] == hits[4].score
    # None of them is left.
    for hit in good:
        hit.path.unlink()
    rest = engine.search_text("white", 8, rerank=reranker, rerank_top=8)
    assert [hit.file for hit in rest] == [hit.file for hit in first]
    assert all(hit.problem for hit in rest)


def test_photos_asked_for_twice_and_paths_as_they_are_given(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = PhotoReranker(build("scan"))
    sizes = counted(reranker.model)
    monkeypatch.chdir(engine.photos)
    gone, red = Path("gone.png"), Path("red 0.png")
    scores = reranker.scores("red", [red, gone, red])
    assert scores[1] == Failure("gone.png", "No such file or directory")
    assert scores[0] == scores[2] == pytest.approx(one_score(reranker.model, "red", red), abs=ROUNDING)
    assert sizes[0] == 1
    assert reranker.scores("red", []) == []


class Fixed:
    """Scores given beforehand, by file name."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scored = scores

    def scores(self, text: str, photos: Sequence[Path], progress: bool = False) -> list[float | Failure]:
        return [self.scored.get(photo.name, 0.0) for photo in photos]


def test_equal_scores_keep_the_order_they_had(engine: SearchEngine) -> None:
    first = engine.search_text("black", 6)
    assert [hit.file for hit in reranked(first, "black", Fixed({}))] == [hit.file for hit in first]
    lifted = engine.search_text("black", 6, rerank=Fixed({first[3].path.name: 1.0}), rerank_top=6)
    assert [hit.file for hit in lifted] == [first[number].file for number in (3, 0, 1, 2, 4, 5)]


def test_several_threads_share_a_reranker(engine: SearchEngine) -> None:
    model = build("scan")
    # Room for some only: the threads push out each other's photos.
    reranker = PhotoReranker(model, batch_size=1, cache_bytes=5 * UNITS * 12 * 4)
    expected = {
        colour: engine.search_text(colour, 5, rerank=PhotoReranker(model, batch_size=1)) for colour in COLOURS
    }
    wrong: list[str] = []

    def ask(colour: str) -> None:
        for _ in range(5):
            if engine.search_text(colour, 5, rerank=reranker) != expected[colour]:
                wrong.append(colour)

    threads = [threading.Thread(target=ask, args=(colour,)) for colour in list(COLOURS)[:3]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_models_that_cannot_rerank_are_refused(tmp_path: Path) -> None:
    for name, model, message in (
        ("fast", build(None), "needs a model with a scorer .* this one compares embeddings"),
        ("features", build("scan", feature_dim=6), "trained on imported features and has no backbone"),
        ("boxes", build("scan", regions="boxes"), "boxes of a file and has no detector"),
    ):
        with pytest.raises(CrossAlignError, match=f"^.*{message}"):
            PhotoReranker(model)
        model.save_pretrained(tmp_path / name)
        with pytest.raises(CrossAlignError, match=f"^{tmp_path / name}: .*{message}"):
            PhotoReranker.open(tmp_path / name, "cpu")
    with pytest.raises(CrossAlignError, match="no such model folder"):
        PhotoReranker.open(tmp_path / "nothing", "cpu")
    with pytest.raises(CrossAlignError, match="batch_size is 0"):
        PhotoReranker(build("scan"), batch_size=0)


def test_bad_questions(engine: SearchEngine) -> None:
    model = build("saf")
    reranker = PhotoReranker(model)
    for text in ("", " \n"):
        with pytest.raises(CrossAlignError, match="the query is empty"):
            reranker.scores(text, [])
        with pytest.raises(CrossAlignError, match="the query is empty"):
            engine.search_text(text, rerank=reranker)
    for k, top in ((0, 50), (5, 0)):
        with pytest.raises(CrossAlignError, match=f"k is {k} and rerank_top {top}"):
            engine.search_text("red", k, rerank=reranker, rerank_top=top)
    with torch.no_grad():
        next(model.scorer.parameters()).fill_(math.nan)
    with pytest.raises(CrossAlignError, match="scores are not finite"):
        engine.search_text("red", rerank=reranker)


def test_a_model_that_is_training_is_left_training(engine: SearchEngine) -> None:
    model = build("sgraf")
    expected = engine.search_text("red", 5, rerank=PhotoReranker(model))
    model.train()
    assert engine.search_text("red", 5, rerank=PhotoReranker(model)) == expected
    assert model.training
    assert model.scorer.training


def test_a_scorer_is_not_indexed_and_nothing_is_written(engine: SearchEngine, tmp_path: Path) -> None:
    model = build("scan")
    model.save_pretrained(tmp_path / "scan")
    (tmp_path / "empty").mkdir()
    engine.close()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "lock"}
    for place in ("new", "empty", "index"):
        for given in (model, tmp_path / "scan"):
            for rebuild in (False, True):
                with pytest.raises(CrossAlignError, match=r"scores every pair .*\(scan\).*--rerank"):
                    update_index(given, engine.photos, tmp_path / place, rebuild=rebuild)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "lock"}
    assert after == before
    assert not list((tmp_path / "empty").iterdir())
    # Nor does it search one.
    with pytest.raises(CrossAlignError, match=f"^{tmp_path / 'scan'}: this model scores every pair"):
        SearchEngine.open(tmp_path / "index", tmp_path / "scan")
