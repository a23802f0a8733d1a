"""Searches in all four directions, query banks and ``--info`` as a user calls them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from crossalign.cli.main import main
from crossalign.model import RetrievalModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "search"))
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
from colour_model import ColourModel, paint
from uni_model import WIDTH, UniModel

from toy_collection import write_toy

Call = Callable[..., tuple[int, str, str]]
TEXTS = ["a red thing", "something blue", "green grass", "a red thing", "yellow sun"]
FALLBACK = (
    "crossalign: the model has no uni-modal heads: {} are compared by the cosine of the embeddings made for photos "
    "with texts\n"
)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Run the command line where there are models, photos and texts: exit code, standard output, standard error."""
    loaded = {"model": UniModel(), "plain": ColourModel()}
    monkeypatch.setattr(
        RetrievalModel, "from_pretrained", lambda name, device="cpu": loaded[Path(name).name], raising=True
    )
    for name in loaded:
        (tmp_path / name).mkdir()
    for seed, colour in enumerate(("red", "green", "blue", "yellow")):
        paint(tmp_path / "photos" / f"{colour}.png", colour, seed)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def one_line(text: str) -> str:
    assert text.count("\n") == 1
    assert text.endswith("\n")
    return text


def test_the_four_directions(call: Call) -> None:
    code, out, _ = call("index", "model", "photos")
    assert (code, f"{4 * 4 * (48 + WIDTH)} B of vectors" in out) == (0, True)
    code, out, _ = call("index", "model", "--texts", "texts.txt")
    assert code == 0
    assert (
        "texts.txt.texts.index: 4 texts (added 4, moved 0, removed 0, unchanged 0), 880 B of vectors" in out
    )
    assert "--image photo.jpg" in out
    for holds, index, query, best, space, score in (
        ("photos", "photos.index", ["blue"], "blue.png", "cross", "inner product"),
        ("photos", "photos.index", ["--image", "photos/green.png"], "green.png", "uni", "cosine"),
        (
            "texts",
            "texts.txt.texts.index",
            ["--image", "photos/blue.png"],
            "something blue",
            "cross",
            "inner product",
        ),
        ("texts", "texts.txt.texts.index", ["yellow sun"], "yellow sun", "uni", "cosine"),
    ):
        code, out, err = call("search", index, *query, "-k", "2", "--json", "--sheet", "hits.png")
        assert (code, err) == (0, "")
        document = json.loads(out)
        assert [document[key] for key in ("holds", "space", "score")] == [holds, space, score]
        assert document["hits"][0]["file" if holds == "photos" else "text"] == best
        assert len(document["hits"]) == 2
        with Image.open("hits.png") as sheet:
            assert sheet.width >= 640
        code, out, _ = call("search", index, *query, "-k", "1")
        assert (code, best in one_line(out)) == (0, True)
    code, out, _ = call("search", "texts.txt.texts.index", "a red thing", "-k", "1")
    assert one_line(out).endswith("a red thing  (1, 4)\n")


def test_a_model_without_heads_says_so_once(call: Call) -> None:
    call("index", "plain", "photos")
    call("index", "plain", "--texts", "texts.txt", "--out", "texts.index")
    assert call("search", "photos.index", "red")[2] == ""
    assert call("search", "photos.index", "--image", "photos/red.png")[2] == FALLBACK.format("photos")
    assert call("search", "texts.index", "red")[2] == FALLBACK.format("texts")
    code, out, err = call("search", "texts.index", "--image", "photos/red.png", "--json")
    assert (code, err, json.loads(out)["score"]) == (0, "", "inner product")


def test_a_bank_corrects_searches_by_words(call: Call) -> None:
    code, out, _ = call(
        "index", "model", "photos", "--bank", "texts.txt", "--bank-temperature", "0.5", "--json"
    )
    assert (code, json.loads(out)["bank"]) == (0, 4)
    found = {}
    for options in ([], ["--hubness"], ["--no-hubness"]):
        code, out, _ = call("search", "photos.index", "red", "--json", *options)
        assert code == 0
        document = json.loads(out)
        found[tuple(options)] = document["hubness"], [hit["score"] for hit in document["hits"]]
    assert found[()] == found[("--hubness",)] != found[("--no-hubness",)]
    assert found[()][0]["temperature"] == 0.5
    assert found[("--no-hubness",)][0] is None
    code, out, _ = call("search", "photos.index", "--image", "photos/red.png", "--json")
    assert (code, json.loads(out)["hubness"]) == (0, None)


def test_info(call: Call) -> None:
    call("index", "model", "photos", "--bank", "texts.txt")
    code, out, _ = call("search", "photos.index", "--info", "--json")
    document = json.loads(out)
    assert (code, document["holds"], document["count"], document["uni"]) == (0, "photos", 4, WIDTH)
    assert document["vector_bytes"] == 4 * 4 * (48 + 1 + WIDTH)
    assert document["disk_bytes"] > document["vector_bytes"]
    assert document["bank"]["texts"] == 4
    code, out, _ = call("search", "photos.index", "--info")
    assert code == 0
    for words in (
        "4 photos of",
        f"uni-modal   width {WIDTH}",
        "4 texts of",
        "896 B in memory while it is open",
    ):
        assert words in out
    call("index", "plain", "--texts", "texts.txt", "--out", "texts.index")
    code, out, _ = call("search", "texts.index", "--info")
    for words in ("4 texts of", "uni-modal   none", "query bank  none"):
        assert words in out
    assert call("search", "nowhere", "--info")[0] == 1


def test_info_counts_the_room_that_is_used(call: Call) -> None:
    call("index", "model", "photos")
    before = json.loads(call("search", "photos.index", "--info", "--json")[1])
    with (Path("photos.index") / before["store"] / "hole").open("wb") as file:
        file.truncate(10**9)
    after = json.loads(call("search", "photos.index", "--info", "--json")[1])
    assert 0 <= after["disk_bytes"] - before["disk_bytes"] < 10**6


def test_a_bank_is_suggested_by_a_command_that_can_be_run(call: Call) -> None:
    call("index", "model", "photos", "--width", "12", "--out", "my index")
    code, _, err = call("search", "my index", "red", "--hubness")
    assert code == 1
    command = shlex.split(one_line(err).rpartition("crossalign ")[2])
    places = {word: str(Path(word).resolve()) for word in ("model", "photos", "my index")}
    assert command == [
        *("index", places["model"], places["photos"], "--width", "12"),
        *("--bank", "TEXTS", "--out", places["my index"], "--rebuild"),
    ]
    assert call(*["texts.txt" if word == "TEXTS" else word for word in command])[0] == 0
    assert call("search", "my index", "red", "--hubness")[0] == 0


def test_texts_cut_off_at_once_name_the_command_that_goes_on(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy(Path("pictures"))
    options = ["--texts", "pictures", "--split", "test", "--width", "12", "--out", "x.index"]
    with monkeypatch.context() as patched:
        patched.setattr("crossalign.search.update._carry_out", _cut_off)
        assert call("index", "model", *options)[0] == 70
    code, _, err = call("search", "x.index", "--image", "photos/red.png")
    assert code == 1
    assert "the index holds no texts; its last update did not finish; to go on, run: " in one_line(err)
    command = shlex.split(err.rpartition("run: crossalign ")[2])
    assert call(*command)[0] == 0
    manifest = json.loads(call("search", "x.index", "--info", "--json")[1])
    assert [manifest[key] for key in ("split", "width", "complete")] == ["test", 12, True]
    assert call("search", "x.index", "--image", "photos/red.png")[0] == 0


def _cut_off(*arguments: object) -> None:
    raise RuntimeError("cut off")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["index", "model"], "give a folder of photos, or texts with --texts; neither is given"),
        (["index", "model", "photos", "--texts", "texts.txt"], "both are given"),
        (["index", "model", "photos", "--split", "test"], "a folder of photos has no splits"),
        (["index", "model", "--texts", "texts.txt", "--bank", "texts.txt"], "leave it out with --texts"),
        (["index", "model", "--texts", "none.txt"], "none.txt: cannot be read"),
        (["index", "model", "photos", "--out", "x", "--bank", "none.txt"], "none.txt: cannot be read"),
        (
            ["search", "texts.index", "red", "--folder", "a"],
            "--folder: is for photos, and texts.index holds texts",
        ),
        (["search", "texts.index", "red", "--rerank", "plain"], "--rerank: is for photos"),
        (["search", "texts.index", "red", "--hubness"], "--hubness: is for photos"),
        (["search", "photos.index", "red", "--hubness"], "no query bank to correct scores with"),
        (["search", "photos.index", "--image", "photos/red.png", "--hubness"], "leave it out"),
        (["search", "texts.index"], "give words, or a picture with --image"),
    ],
)
def test_refused_in_one_line(call: Call, arguments: list[str], said: str) -> None:
    call("index", "model", "photos", "--out", "photos.index")
    call("index", "model", "--texts", "texts.txt", "--out", "texts.index")
    code, out, err = call(*arguments)
    assert (code, out) == (1, "")
    assert said in one_line(err)
    assert not Path("x").exists()
