"""``crossalign index`` and ``crossalign search`` as a user calls them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from crossalign.cli.main import main
from crossalign.model import RetrievalModel
from crossalign.search.lock import IndexLock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "search"))
from colour_model import ColourModel, paint

Call = Callable[..., tuple[int, str, str]]
NO_CUDA = "crossalign: --device cuda: PyTorch finds no CUDA device here; use cpu\n"
NO_BANANA = "--device banana: no device that can be used here; give auto, cpu, cuda or cuda:1\n"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Run the command line: exit code, standard output, standard error."""
    loaded = {"model": ColourModel(), "other": ColourModel("other", scale=3.0)}
    monkeypatch.setattr(
        RetrievalModel, "from_pretrained", lambda name, device="cpu": loaded[Path(name).name], raising=True
    )
    for name in loaded:
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, colour in enumerate(("red", "green", "blue", "yellow")):
        paint(tmp_path / "photos" / "ünï 写真" / f"{colour}.png", colour, seed)
    paint(tmp_path / "photos" / "white.jpg", "white")
    return tmp_path / "photos"


def _one_line(text: str) -> str:
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text


def test_index_then_search(call: Call, photos: Path) -> None:
    code, out, _ = call("index", "model", "photos")
    assert code == 0
    assert "5 photos (added 5, changed 0, renamed 0, removed 0, unchanged 0, failed 0)" in out
    assert "next:  crossalign search" in out
    code, out, _ = call("search", "photos.index", "something blue", "-k", "2")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert out.splitlines()[0].split() == ["1", out.split()[1], "ünï", "写真/blue.png"]


def test_the_next_command_can_be_pasted(call: Call, photos: Path, tmp_path: Path) -> None:
    code, out, _ = call("index", "model", "photos", "--out", "my index")
    assert code == 0
    command = ["crossalign", "search", str(tmp_path / "my index"), "a dog on the beach"]
    assert shlex.split(out.splitlines()[-1])[1:] == command


def test_json_of_index(call: Call, photos: Path) -> None:
    (photos / "bad.jpg").write_text("not a picture")
    code, out, err = call("index", "model", "photos", "--out", "here", "--json", "--skip-bad")
    assert code == 0
    document = json.loads(out)
    assert document == {
        "index": str(photos.with_name("here")),
        "folder": str(photos),
        "model": str(photos.with_name("model")),
        "fingerprint": ColourModel().fingerprint,
        "photos": 5,
        "added": 5,
        "changed": 0,
        "renamed": 0,
        "removed": 0,
        "unchanged": 0,
        "failed": 1,
        "failures": [{"file": "bad.jpg", "reason": "not a picture"}],
        "width": None,
        "uni": None,
        "bank": None,
        "vector_bytes": 5 * 48 * 4,
    }
    assert "skipped, 1 could not be read: bad.jpg (not a picture)" in _one_line(err)


def test_an_index_of_a_width_is_searched_at_that_width(call: Call, photos: Path) -> None:
    code, out, _ = call("index", "model", "photos", "--width", "12", "--json")
    assert (code, json.loads(out)["width"]) == (0, 12)
    code, out, _ = call("search", "photos.index", "something blue", "-k", "1")
    assert (code, out.split()[-1]) == (0, "写真/blue.png")
    code, _, err = call("index", "model", "photos")
    assert code == 1
    assert (
        "holds embeddings of width 12, asked for are whole embeddings; give --width 12, or run"
        in _one_line(err)
    )
    assert call("index", "model", "photos", "--rebuild")[0] == 0
    for width in ("0", "49"):
        code, _, err = call("index", "model", "photos", "--out", "new", "--width", width)
        assert (code, (photos.parent / "new").exists()) == (1, False)
        assert f"width {width}: the embedding has 48 numbers; give 1 to 48" in _one_line(err)


def test_json_of_search(call: Call, photos: Path) -> None:
    call("index", "model", "photos")
    (photos / "white.jpg").unlink()
    code, out, _ = call(
        "search", "photos.index", "white", "-k", "2", "--json", "--exact", "--sheet", "hits.png"
    )
    assert code == 0
    document = json.loads(out)
    seconds = document.pop("seconds")
    assert set(seconds) == {"encode", "search", "rerank"}
    assert seconds["rerank"] == 0
    hits: list[dict[str, Any]] = document.pop("hits")
    assert document == {
        "index": "photos.index",
        "query": {"text": "white"},
        "unknown_words": [],
        "k": 2,
        "exact": True,
        "holds": "photos",
        "space": "cross",
        "score": "inner product",
        "hubness": None,
        "rerank": None,
        "folder": "",
        "photos": 5,
        "complete": True,
        "sheet": "hits.png",
    }
    assert len(hits) == 2
    score = hits[0].pop("score")
    assert isinstance(score, float)
    assert score > hits[1]["score"]
    assert hits[0] == {
        "rank": 1,
        "file": "white.jpg",
        "path": str(photos / "white.jpg"),
        "width": 40,
        "height": 30,
        "missing": True,
        "first_score": None,
        "problem": None,
    }
    with Image.open("hits.png") as sheet:
        assert sheet.format == "PNG"


def test_search_with_a_picture_in_a_folder(call: Call, photos: Path) -> None:
    call("index", "model", "photos")
    query = photos / "ünï 写真" / "green.png"
    code, out, _ = call("search", "photos.index", "--image", query, "--folder", "ünï 写真", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["query"] == {"image": str(query)}
    assert Path(document["hits"][0]["file"]).name == "green.png"
    assert len(document["hits"]) == 4


def test_scores_of_words_are_inner_products_and_those_of_a_picture_cosines(call: Call, photos: Path) -> None:
    call("index", "other", "photos")
    _, words, _ = call("search", "photos.index", "white", "--json")
    assert json.loads(words)["hits"][0]["score"] > 1.5
    _, picture, _ = call("search", "photos.index", "--image", photos / "white.jpg", "--json")
    assert json.loads(picture)["hits"][0]["score"] == 1.0


def test_unreadable_photos_end_with_1_but_the_good_ones_are_indexed(call: Call, photos: Path) -> None:
    for number in range(7):
        (photos / f"bad {number}.jpg").write_text("not a picture")
    code, out, err = call("index", "model", "photos")
    assert code == 1
    assert "5 photos (added 5" in out
    assert "failed 7" in out
    line = err.splitlines()[-1]
    assert line.startswith("crossalign: 7 could not be read: bad 0.jpg (not a picture); bad 1.jpg")
    assert "and 2 more" in line
    assert "the other 5 are indexed" in line
    assert "--skip-bad" in line
    assert call("index", "model", "photos", "--skip-bad")[0] == 0
    assert call("search", "photos.index", "red")[0] == 0


@pytest.mark.parametrize("text", ["\U0001fae8", "\u72ac", "\U0001f468\u200d\U0001f469", "#\ufe0f\u20e3", "7"])
def test_signs_that_may_mean_something_are_searched(call: Call, photos: Path, text: str) -> None:
    assert call("index", "model", "photos")[0] == 0
    assert call("search", "photos.index", text)[0] == 0


def test_index_of_bad_photos_alone_is_empty_and_says_so(call: Call, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "bad.jpg").write_text("not a picture")
    assert call("index", "model", "photos")[0] == 1
    code, _, err = call("search", "photos.index", "red")
    assert code == 1
    assert "the index holds no photos; run: crossalign index" in _one_line(err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "photos.index"], "give words, or a picture"),
        (["search", "photos.index", "red", "--image", "x.png"], "one of the two, not both"),
        (["search", "photos.index", "  "], "the query is empty"),
        (["search", "photos.index", "?! ..."], "the query '?! ...' has no word"),
        (["search", "photos.index", "--image", "none.png"], "none.png: no such photo"),
        (["search", "photos.index", "red", "--device", "cuda"], NO_CUDA),
        (["index", "model", "photos", "--device", "cuda"], NO_CUDA),
        (["search", "photos.index", "red", "--device", "banana"], NO_BANANA),
        (["index", "model", "photos", "--device", "banana"], NO_BANANA),
        (["search", "photos", "red"], "photos: not an index; did you mean "),
        (["search", "photos", "red"], "photos.index?"),
        (["search", "photos/white.jpg", "red"], "white.jpg: not a folder; give the folder of an index"),
        (
            ["search", "photos/ünï 写真", "red"],
            "if these are photos, make one beside them: crossalign index MODEL",
        ),
        (["search", "nowhere", "red"], "no index here (index.json is missing); make one: crossalign index"),
        (
            ["search", "photos.index", "red", "--folder", "nowhere"],
            "--folder nowhere: the index has no photos in it",
        ),
        (
            ["search", "photos.index", "red", "--folder", "no", "--json", "--sheet", "x.png"],
            "--folder no: the index",
        ),
        (["search", "photos.index", "red", "--model", "other"], "built with another model"),
        (["search", "photos.index", "red", "--sheet", "a.txt"], "use .png"),
        (["index", "model", "nowhere"], "no such folder of photos"),
        (["index", "other", "photos"], "--rebuild"),
        (["index", "model", "model", "--out", "new"], "no photos found"),
    ],
)
def test_bad_input_ends_with_one_line(call: Call, photos: Path, arguments: list[str], message: str) -> None:
    if message is NO_CUDA and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    call("index", "model", "photos")
    code, out, err = call(*arguments)
    assert (code, out) == (1, "")
    assert message in _one_line(err)
    assert err.startswith("crossalign: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "nope.jpg"], "nope.jpg: no such photo"),
        (["red", "--folder", "zzz"], "--folder zzz: the index has no photos in it"),
        (["red", "--sheet", "hits.txt"], "use .png"),
        (["red", "--rerank-top", "5"], "nothing re-ranks"),
    ],
)
def test_wrong_arguments_are_told_before_a_model_is_loaded(
    call: Call, photos: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    call("index", "model", "photos")

    def load(name: str, device: str = "cpu") -> RetrievalModel:
        raise AssertionError(f"{name} is loaded")

    monkeypatch.setattr(RetrievalModel, "from_pretrained", load)
    code, _, err = call("search", "photos.index", *arguments)
    assert (code, message in _one_line(err)) == (1, True)


def test_top_is_a_range_in_the_help(call: Call, photos: Path) -> None:
    call("index", "model", "photos")
    assert len(call("search", "photos.index", "red", "--top", "2")[1].splitlines()) == 2
    for option in ("-k", "--top"):
        code, out, err = call("search", "photos.index", "red", option, "0")
        assert (code, out) == (2, "")
        assert "'--top' / '-k'" in err


def test_a_folder_of_the_index_alone_is_told_on_the_sheet(
    call: Call, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    def sheet(hits: object, shown: object, *, note: str) -> Image.Image:
        notes.append(note)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("crossalign.cli.search_parts.contact_sheet", sheet)
    call("index", "model", "photos")
    for options in ([], ["--folder", "ünï 写真"]):
        assert call("search", "photos.index", "red", "-k", "3", "--sheet", "hits.png", *options)[0] == 0
    assert notes == [
        "3 of 5 photos of the folder photos",
        "3 of 5 photos of the folder photos · only those in ünï 写真",
    ]


def test_model_that_cannot_be_loaded_leaves_nothing_behind(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["index", str(tmp_path / "no model"), str(photos)])
    assert "no such model folder" in _one_line(capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_rebuild_takes_another_model(call: Call, photos: Path) -> None:
    call("index", "model", "photos")
    code, out, _ = call("index", "other", "photos", "--rebuild", "--json")
    assert code == 0
    assert json.loads(out)["added"] == 5
    assert call("search", "photos.index", "red", "--json")[0] == 0


def test_index_in_use(call: Call, photos: Path, tmp_path: Path) -> None:
    call("index", "model", "photos")
    with IndexLock(tmp_path / "photos.index", "crossalign index"):
        for arguments in (["index", "model", "photos"], ["search", "photos.index", "red"]):
            code, out, err = call(*arguments)
            assert (code, out) == (1, "")
            assert f"in use by process {os.getpid()} (crossalign index) since " in _one_line(err)


def test_unfinished_index_is_told(call: Call, photos: Path, tmp_path: Path) -> None:
    call("index", "model", "photos")
    manifest = tmp_path / "photos.index" / "index.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"complete": False}))
    code, out, err = call("search", "photos.index", "red", "--json")
    assert code == 0
    assert json.loads(out)["complete"] is False
    assert "photos may be missing: its last update did not finish; to go on, run: " in _one_line(err)
    assert call(*shlex.split(err.rpartition("run: crossalign ")[2]))[0] == 0
    assert call("search", "photos.index", "red")[2] == ""


def test_an_index_cut_off_at_once_names_the_command_that_goes_on(
    call: Call, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos.parent / "words.txt").write_text("a red thing\nblue")
    with monkeypatch.context() as patched:
        patched.setattr("crossalign.search.update._carry_out", _cut_off)
        options = ["--width", "12", "--bank", "words.txt", "--out", "an index"]
        assert call("index", "model", "photos", *options)[0] == 70
    code, _, err = call("search", "an index", "red")
    assert code == 1
    assert "the index holds no photos; its last update did not finish; to go on, run: " in _one_line(err)
    code, out, _ = call(*shlex.split(err.rpartition("run: crossalign ")[2]), "--json")
    assert code == 0
    assert {key: json.loads(out)[key] for key in ("photos", "width", "bank")} == {
        "photos": 5,
        "width": 12,
        "bank": 2,
    }


def _cut_off(*arguments: object) -> None:
    raise RuntimeError("cut off")
