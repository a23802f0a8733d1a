"""``crossalign search --rerank`` as a user calls it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossalign import RetrievalModel
from crossalign.cli.main import main
from crossalign.encoders.words import WordTokenizer
from crossalign.search import PhotoReranker, SearchEngine, contact_sheet, reranked

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "search"))
from colour_model import COLOURS, paint
from scoring_model import build, check_best

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Run the command line beside an index of 8 photos: exit code, standard output, standard error."""
    for seed in range(8):
        colour = list(COLOURS)[seed % 6]
        paint(tmp_path / "photos" / f"{colour} {seed}.png", colour, seed, (40 + 4 * seed, 30 + seed))
    build(None).save_pretrained(tmp_path / "fast")
    build("scan").save_pretrained(tmp_path / "slow" / "model")
    build("scan", feature_dim=6).save_pretrained(tmp_path / "features")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--device", "cpu"])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    code, _, err = run("index", "fast", "photos")
    assert code == 0, err
    return run


def test_json(call: Call, tmp_path: Path) -> None:
    with SearchEngine.open("photos.index", device="cpu") as engine:
        first = engine.search_text("a red thing", 6)
    code, out, err = call(
        "search", "photos.index", "a red thing", "-k", 3, "--rerank", "slow", "--rerank-top", 6, "--json"
    )
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["rerank"] == {"model": "slow", "top": 6, "unknown_words": [], "failures": []}
    assert document["seconds"]["rerank"] > 0
    hits: list[dict[str, Any]] = document["hits"]
    found = {hit.file: hit for hit in first}
    shown = [replace(found[hit["file"]], score=hit["score"]) for hit in hits]
    check_best(shown, build("scan"), "a red thing", first)
    for rank, hit in enumerate(hits, start=1):
        assert hit["rank"] == rank
        assert hit["first_score"] == pytest.approx(found[hit["file"]].score, abs=1e-6)
        assert hit["problem"] is None
    # -k of them where that is more.
    code, out, _ = call(
        "search", "photos.index", "red", "-k", 5, "--rerank", "slow", "--rerank-top", 2, "--json"
    )
    assert json.loads(out)["rerank"]["top"] == 5


def test_words_that_a_model_does_not_know_are_told(call: Call, tmp_path: Path) -> None:
    words = WordTokenizer.build(["a red zebra"], min_count=1)
    RetrievalModel(build("scan").config, tokenizer=words).save_pretrained(tmp_path / "narrow")
    told = "crossalign: the model does not know: zebra, Giraffe\n"
    query = ("search", "photos.index", "a red zebra, a Giraffe: zebra thing!")
    code, out, err = call(*query, "--rerank", "narrow", "--json")
    assert code == 0
    assert err == f"{told}crossalign: narrow (--rerank) does not know: Giraffe, thing\n"
    document = json.loads(out)
    assert document["unknown_words"] == ["zebra", "Giraffe"]
    assert document["rerank"]["unknown_words"] == ["Giraffe", "thing"]
    assert call(*query)[2] == told
    # A cut model reads the same words; a picture has none.
    assert call("index", "fast", "photos", "--out", "cut", "--width", 6)[0] == 0
    assert call("search", "cut", *query[2:])[2] == told
    code, out, err = call("search", "cut", "--image", "photos/red 0.png", "--json")
    assert (code, "not know" in err, json.loads(out)["unknown_words"]) == (0, False, [])


def test_the_sheet_shows_the_new_order(call: Call, tmp_path: Path) -> None:
    code, _, _ = call(
        "search", "photos.index", "a green thing", "-k", 4, "--rerank", "slow/model", "--sheet", "hits.png"
    )
    assert code == 0
    with SearchEngine.open("photos.index", device="cpu") as engine:
        first = engine.search_text("a green thing", 8)
    hits = reranked(first, "a green thing", PhotoReranker.open("slow", "cpu"))[:4]
    assert [hit.file for hit in hits] != [hit.file for hit in first[:4]]
    drawn = contact_sheet(
        hits, "a green thing", note="4 of 8 photos of the folder photos · best 8 re-ranked by slow"
    )
    with Image.open("hits.png") as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(drawn))


def test_photos_that_cannot_be_read_are_named_in_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "photos" / "green 1.png").unlink()
    (tmp_path / "photos" / "blue 2.png").write_text("not a picture")
    arguments = ["search", "photos.index", "red", "-k", 8, "--rerank", "slow"]
    code, out, err = call(*arguments, "--json", "--sheet", "hits.png")
    assert code == 0
    assert err.count("\n") == 1
    assert err.startswith("crossalign: not re-ranked, 2 could not be read: ")
    assert "green 1.png (No such file or directory)" in err
    assert "blue 2.png (not a picture)" in err
    document = json.loads(out)
    hits = document["hits"]
    assert {hit["file"] for hit in hits[6:]} == {"green 1.png", "blue 2.png"}
    assert [hit["score"] for hit in hits[6:]] == [None, None]
    assert all(isinstance(hit["score"], float) for hit in hits[:6])
    assert sorted(failure["file"] for failure in document["rerank"]["failures"]) == [
        "blue 2.png",
        "green 1.png",
    ]
    code, out, err = call(*arguments)
    assert [line.split()[:2] for line in out.splitlines()[6:]] == [["7", "–"], ["8", "–"]]
    lines = sorted(line.split("png", 1)[1].strip() for line in out.splitlines())
    assert lines == [""] * 6 + ["(cannot be read)", "(missing)"]
    # Named also when they are too far behind to be shown; with many, the first five.
    for path in (tmp_path / "photos").iterdir():
        if "red" not in path.name:
            path.write_text("not a picture")
    code, out, err = call("search", "photos.index", "red", "-k", 1, "--rerank", "slow", "--json")
    assert code == 0
    assert err.count("(not a picture)") + err.count("(No such file") == 5
    assert "and 1 more (--json lists all)" in err
    document = json.loads(out)
    assert len(document["rerank"]["failures"]) == 6
    assert "red" in document["hits"][0]["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--image", "photos/red 0.png", "--rerank", "slow"],
            "--rerank: a scorer compares words with the regions",
        ),
        (["red", "--rerank", "fast"], "fast: re-ranking needs a model with a scorer"),
        (["red", "--rerank", "features"], "features: this model was trained on imported features and has no"),
        (["red", "--rerank", "nothing"], "nothing: no such model folder"),
        (["red", "--rerank-top", "5"], "--rerank-top 5: nothing re-ranks; give a model with --rerank too"),
        (
            ["red", "--rerank", "slow", "--folder", "nowhere"],
            "--folder nowhere: the index has no photos in it",
        ),
        (["red", "--model", "slow"], "slow: this model scores every pair of a photo and a text (scan)"),
    ],
)
def test_refusals_are_one_line(call: Call, arguments: list[str], message: str) -> None:
    code, out, err = call("search", "photos.index", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("crossalign: ")
    assert message in err
    assert err.count("\n") == 1


def test_no_photo_at_all_is_no_search(call: Call) -> None:
    code, out, err = call("search", "photos.index", "red", "--rerank", "slow", "-k", "0")
    assert (code, out) == (2, "")
    assert "'--top'" in err
    assert "greater than or equal to 1" in err


@pytest.mark.parametrize("place", ["new", "photos.index"])
def test_a_scorer_cannot_be_indexed(call: Call, tmp_path: Path, place: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "lock"}
    code, out, err = call("index", "slow", "photos", "--out", place)
    assert (code, out) == (1, "")
    assert err.startswith("crossalign: slow: this model scores every pair of a photo and a text (scan)")
    assert "--rebuild" not in err
    assert err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "lock"} == before
