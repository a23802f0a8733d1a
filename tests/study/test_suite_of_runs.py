"""A study that measures more of each run than retrieval, with the run or later, and says on what data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_study import STUDY, Place, go

from crossalign.errors import CrossAlignError
from crossalign.study import load_study, plan_runs
from crossalign.study.later import told_lacks
from crossalign.study.records import read_records
from crossalign.study.settings import SuiteSettings
from crossalign.study.suite_data import SuiteData, kind_of, lacking, named_data
from crossalign.study.summary import summarize
from crossalign.study.table import cells, notes

Heard = tuple[list[str], Callable[[str], None]]


def write_sentences(folder: Path, *, change: str = "") -> Path:
    """Pairs of sentences in words of the toy collection."""
    place = folder / "STS12-en-test"
    place.mkdir(parents=True, exist_ok=True)
    pairs = [("red round", "red round big"), ("blue old", "new green"), ("soft left", f"left small{change}")]
    (place / "STS.input.toy.txt").write_text("".join(f"{one}\t{two}\n" for one, two in pairs))
    (place / "STS.gs.toy.txt").write_text("5\n0\n3\n")
    return folder


def test_a_study_measures_the_suite_of_every_run_and_shows_its_numbers(place: Place) -> None:
    place.write(
        variants={"base": STUDY["variants"]["base"]},
        suite={},
        numbers=["captions.r1", "sts.average"],
        seeds=[0],
    )
    process = place.start("--json")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    outcome = read_records(place.out)["base", 0].outcome
    assert outcome is not None
    assert outcome.suite is not None
    assert outcome.number("captions.r1") == outcome.suite["captions.r1"]
    assert 0 <= outcome.suite["captions.r1"] <= 100
    # No folder of sentences was named.
    assert outcome.number("sts.average") is None
    assert outcome.number("embedding_width") == outcome.embedding_width
    shown = json.loads(out)["variants"]["base"]["numbers"]
    assert "captions.r1" in shown
    assert (place.runs / "base-seed0" / "results" / "suite-test" / "suite.json").is_file()
    data = outcome.suite_data
    assert data == {}, "nothing but the collection, which the result names"


def test_what_a_record_lacks_is_measured_later_without_training(copy: Place, heard: Heard) -> None:
    before = read_records(copy.out)
    trained = {
        path: path.stat().st_mtime_ns
        for path in copy.runs.rglob("*")
        if path.is_file() and path.suffix != ".lock" and "results" not in path.parts
    }
    suite = SuiteSettings(sts=str(write_sentences(copy.folder / "pairs")))
    tally = go(copy, seeds=(0,), suite=suite, tell=heard[1])
    assert (tally.measured, tally.done, tally.kept) == (["base-seed0", "+lca-seed0"], [], [])
    assert heard[0] == [
        f"{key}: its record lacks all numbers of the suite: measuring it" for key in tally.measured
    ]
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    records = read_records(copy.out)
    for key, record in records.items():
        old, new = before[key].outcome, record.outcome
        assert old is not None
        assert new is not None
        assert new.model_copy(update={"suite": None, "suite_data": None}) == old
        assert record.origin == before[key].origin
        assert (new.suite is None) == (key[1] == 1)
        assert (record.suite_origin is None) == (key[1] == 1)
    outcome = records["base", 0].outcome
    assert outcome is not None
    assert outcome.suite is not None
    saved = json.loads((copy.runs / "base-seed0" / "results" / "suite-test" / "suite.json").read_text())
    assert outcome.number("sts.STS12") == pytest.approx(saved["parts"]["sts"]["metrics"]["STS12"], rel=1e-5)
    assert outcome.suite_data == named_data(suite, "test")
    assert outcome.suite_data["sts"].sets == ("STS12",)
    assert str(copy.folder) not in (copy.out / "records" / "base-seed0.json").read_text()
    # Settled now: only read.
    files = {path: path.stat().st_mtime_ns for path in copy.folder.rglob("*") if path.is_file()}
    assert go(copy, seeds=(0,), suite=suite).kept == ["base-seed0", "+lca-seed0"]
    assert {path: path.stat().st_mtime_ns for path in copy.folder.rglob("*") if path.is_file()} == files


def test_the_run_folder_of_another_study_serves_if_it_has_the_model(copy: Place) -> None:
    recipe = copy.runs / "base-seed0" / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("name: tiny-base", "name: others-base", 1))
    assert recipe.read_text() != text
    suite = SuiteSettings(sts=str(write_sentences(copy.folder / "pairs")))
    assert go(copy, seeds=(0,), suite=suite).measured == ["base-seed0", "+lca-seed0"]


def test_a_collection_that_has_changed_gives_a_record_no_more_numbers(copy: Place, heard: Heard) -> None:
    path = copy.out / "records" / "base-seed0.json"
    content = json.loads(path.read_text())
    content["outcome"]["result"]["metrics"]["rsum"] += 1
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    tally = go(copy, seeds=(0,), suite=SuiteSettings(), tell=heard[1])
    assert "so the collection or its features have changed" in tally.lacking["base-seed0"]
    assert path.read_bytes() == before
    assert tally.measured == ["+lca-seed0"]


def test_other_data_is_measured_anew_and_other_numbers_stay(copy: Place, heard: Heard) -> None:
    first = write_sentences(copy.folder / "pairs")
    go(copy, seeds=(0,), suite=SuiteSettings(sts=str(first)))
    # The same content elsewhere is the same data.
    again = write_sentences(copy.folder / "elsewhere" / "pairs")
    assert len(go(copy, seeds=(0,), suite=SuiteSettings(sts=str(again))).kept) == 2
    assert len(go(copy, seeds=(0,), suite=SuiteSettings()).kept) == 2, "more than is asked for"
    write_sentences(first, change=" old")
    tally = go(copy, seeds=(0,), suite=SuiteSettings(sts=str(first)), tell=heard[1])
    assert len(tally.measured) == 2
    assert heard[0][0].startswith("base-seed0: its record lacks sts on pairs: STS12 (")
    assert "in place of pairs: STS12 (" in heard[0][0]
    outcome = read_records(copy.out)["base", 0].outcome
    assert outcome is not None
    assert outcome.suite_data == named_data(SuiteSettings(sts=str(first)), "test")
    # Numbers of a kind that is not named now keep their place and their data.
    path = copy.out / "records" / "base-seed0.json"
    content = json.loads(path.read_text())
    content["outcome"]["suite"] |= {"cxc_sts.spearman": 12.5, "captions.gone": 1.0}
    content["outcome"]["suite_data"]["cxc"] = {"name": "cxc", "sets": ["sts"], "sha256": "0" * 64}
    path.write_text(json.dumps(content))
    write_sentences(first, change=" new")
    go(copy, seeds=(0,), suite=SuiteSettings(sts=str(first)))
    outcome = read_records(copy.out)["base", 0].outcome
    assert outcome is not None
    assert outcome.number("cxc_sts.spearman") == 12.5
    assert outcome.number("captions.gone") is None
    assert outcome.suite_data is not None
    assert set(outcome.suite_data) == {"sts", "cxc"}


def test_a_record_from_before_that_names_no_data_is_read_and_measured_again(
    copy: Place, heard: Heard
) -> None:
    suite = SuiteSettings(sts=str(write_sentences(copy.folder / "pairs")))
    go(copy, seeds=(0,), suite=suite)
    path = copy.out / "records" / "base-seed0.json"
    content = json.loads(path.read_text())
    del content["outcome"]["suite_data"], content["suite_origin"]
    path.write_text(json.dumps(content))
    told = list(told_lacks(copy.out, copy.runs, plan_runs(load_study(copy.file), [0]), suite))
    assert told == ["base-seed0: its record lacks sts on known data; without --report it is measured"]
    assert go(copy, seeds=(0,), suite=suite).measured == ["base-seed0"]
    outcome = read_records(copy.out)["base", 0].outcome
    assert outcome is not None
    assert outcome.suite_data == named_data(suite, "test")


def test_without_the_model_it_is_told_and_nothing_changes(copy: Place, heard: Heard) -> None:
    suite = SuiteSettings(sts=str(write_sentences(copy.folder / "pairs")))
    # Another model in the folder of the one, none in that of the other.
    shutil.rmtree(copy.runs / "base-seed0" / "model")
    shutil.copytree(copy.runs / "+lca-seed0" / "model", copy.runs / "base-seed0" / "model")
    shutil.rmtree(copy.runs / "+lca-seed0")
    before = {path: path.read_bytes() for path in (copy.out / "records").iterdir()}
    tally = go(copy, seeds=(0,), suite=suite, tell=heard[1])
    assert (tally.done, tally.measured, tally.kept) == ([], [], ["base-seed0", "+lca-seed0"])
    assert list(tally.lacking) == ["base-seed0", "+lca-seed0"]
    assert f"{copy.runs / 'base-seed0'}: holds another model" in tally.lacking["base-seed0"]
    assert tally.lacking["+lca-seed0"] == (
        "its record lacks all numbers of the suite, and its model is not in "
        f"{copy.runs / '+lca-seed0'}; name the --runs of then, or remove the record to train it again"
    )
    assert f"+lca-seed0: {tally.lacking['+lca-seed0']}" in heard[0]
    assert {path: path.read_bytes() for path in (copy.out / "records").iterdir()} == before
    # The folder of a run with other settings is not that of the record.
    recipe = copy.runs / "base-seed0" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("dim: 16", "dim: 24", 1))
    tally = go(copy, seeds=(0,), suite=suite)
    assert "holds a run with other settings (model.dim)" in tally.lacking["base-seed0"]
    # Where the record was taken over, the remedy is another.
    path = copy.out / "records" / "+lca-seed0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"taken_from": "first: +lca-seed0"}))
    tally = go(copy, seeds=(0,), suite=suite)
    assert "it was taken from first: +lca-seed0, and its model is not in" in tally.lacking["+lca-seed0"]


def test_a_damaged_recipe_in_a_run_stops_no_other_run(copy: Place) -> None:
    suite = SuiteSettings(sts=str(write_sentences(copy.folder / "pairs")))
    (copy.out / "records" / "+lca-seed0.json").unlink()
    (copy.runs / "base-seed0" / "recipe.yaml").write_text("name: [")
    (copy.runs / "+lca-seed0" / "recipe.yaml").write_bytes(b"\xff")
    tally = go(copy, suite=suite)
    assert "holds a run with other settings (the whole)" in tally.lacking["base-seed0"]
    assert "made with other settings (the whole)" in tally.differing["+lca-seed0"]
    assert tally.measured == ["base-seed1", "+lca-seed1"]


def test_data_that_is_not_there_is_told_before_anything_is_trained(place: Place) -> None:
    with pytest.raises(CrossAlignError, match="no such folder; give that of the sentence pairs"):
        go(place, suite=SuiteSettings(sts=str(place.folder / "none")))
    assert not place.runs.exists()


def test_the_command_tells_and_ends_with_one(copy: Place) -> None:
    pairs = write_sentences(copy.folder / "pairs")
    shutil.rmtree(copy.runs / "base-seed0")
    told = copy.start("--seeds", "0", "--sts", pairs, "--report").communicate(timeout=240)[1].splitlines()
    lacks = "its record lacks all numbers of the suite"
    assert [line for line in told if "lacks" in line] == [
        f"base-seed0: {lacks}; its model is not in {copy.runs / 'base-seed0'}; name the --runs of then, or remove the "
        "record to train it again",
        f"+lca-seed0: {lacks}; without --report it is measured",
    ]
    process = copy.start("--seeds", "0", "--sts", pairs)
    told = process.communicate(timeout=240)[1].splitlines()
    assert process.returncode == 1
    assert told[-1].startswith(
        "crossalign: 1 of 2 runs lack numbers of the suite, the first is base-seed0: its record"
    )
    assert read_records(copy.out)["+lca", 0].suite_origin is not None


def test_a_mean_over_some_seeds_says_how_many_and_mixed_data_has_none(copy: Place) -> None:
    study = copy.write(numbers=["sts.STS12", "captions.r1", "embedding_width"])
    first, other = write_sentences(copy.folder / "one"), write_sentences(copy.folder / "two", change=" old")

    def told() -> tuple[dict[str, Any], list[str], dict[str, dict[str, str]]]:
        summary = summarize(study, copy.out, (0, 1), resamples=300)
        heading, rows = cells(summary)
        shown = {row[0]: dict(zip(heading, row, strict=True)) for row in rows}
        return summary, list(notes(summary)), shown

    assert "suite_data" not in summarize(study, copy.out, (0, 1), resamples=300)
    go(copy, seeds=(0,), suite=SuiteSettings(sts=str(first)))
    summary, lines, shown = told()
    average = read_records(copy.out)["base", 0].outcome.suite["sts.STS12"]  # type: ignore[union-attr, index]
    assert summary["variants"]["base"]["numbers"]["sts.STS12"] == {
        "mean": average, "sd": None, "values": [average], "seeds": [0],
    }  # fmt: skip
    assert "seeds" not in summary["variants"]["base"]["numbers"]["embedding_width"]
    assert shown["base"]["sts.STS12"] == f"{average:.4g} (1 of 2 seeds)"
    assert shown["base"]["captions.r1"].endswith("(1 of 2 seeds)")
    assert "seeds" not in shown["base"]["embedding width"]
    digest = named_data(SuiteSettings(sts=str(first)), "test")["sts"].sha256
    assert f"sts: measured on one: STS12 (SHA-256 {digest[:8]})" in lines

    go(copy, seeds=(1,), suite=SuiteSettings(sts=str(other)))
    summary, lines, shown = told()
    assert "sts.STS12" not in summary["variants"]["base"]["numbers"]
    assert "seeds" not in summary["variants"]["base"]["numbers"]["captions.r1"]
    assert "sts.STS12" not in shown["base"], "no variant has one"
    assert "seeds" not in shown["base"]["captions.r1"]
    mixed = next(line for line in lines if line.startswith("sts: "))
    assert "measured on different data" in mixed
    assert "for +lca-seed0, base-seed0" in mixed or "for base-seed0, +lca-seed0" in mixed

    # A record that does not say is counted, and told.
    path = copy.out / "records" / "base-seed1.json"
    content = json.loads(path.read_text())
    content["outcome"]["suite_data"] = None
    path.write_text(json.dumps(content))
    summary, lines, shown = told()
    assert len(summary["variants"]["base"]["numbers"]["sts.STS12"]["values"]) == 2
    assert "sts: the records of base-seed1 do not say what it was measured on" in lines


@pytest.mark.parametrize(
    ("suite", "data", "lack"),
    [
        (None, None, ["all numbers of the suite"]),
        ({"captions.r1": 1.0}, {}, ["sts"]),
        ({"captions.r1": 1.0}, None, ["sts"]),
        ({"sts.average": 1.0}, None, ["sts on known data"]),
        ({}, {"sts": SuiteData(name="s", sets=("a",), sha256="1" * 64)}, []),
        (
            {"sts.average": 1.0},
            {"sts": SuiteData(name="t", sets=("b",), sha256="2" * 64)},
            ["sts on s: a (11111111) in place of t: b (22222222)"],
        ),
    ],
)
def test_what_a_record_lacks(
    suite: dict[str, float] | None, data: dict[str, SuiteData] | None, lack: list[str]
) -> None:
    asked = {"sts": SuiteData(name="s", sets=("a",), sha256="1" * 64)}
    assert list(lacking(asked, suite, data)) == lack
    assert list(lacking({}, suite, data)) == ([] if suite is not None else lack)


def test_every_kind_of_data_has_its_checksum(tmp_path: Path, shared_data: Path) -> None:
    from PIL import Image

    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "pets" / name)
    suite = SuiteSettings(
        judgements=str(shared_data / "flickr8k"),
        cxc=str(shared_data / "cxc"),
        classes=(str(tmp_path / "pets"),),
    )
    found = named_data(suite, "test")
    assert {kind: data.name for kind, data in found.items()} == {
        "judgements": "flickr8k", "cxc": "cxc", "classes": "pets",
    }  # fmt: skip
    assert found["judgements"].sets == ("expert", "crowd")
    assert set(found["cxc"].sets) <= {"sts", "sis", "sits"}
    Image.new("RGB", (40, 4), "red").save(tmp_path / "pets" / "dog" / "1.png")
    changed = named_data(suite, "test")
    assert changed["classes"].sha256 != found["classes"].sha256
    assert changed["cxc"] == found["cxc"]
    assert named_data(suite, "val")["cxc"].sha256 != found["cxc"].sha256
    told = ["sts.average", "judgements_expert.tau", "cxc_sits.spearman", "classes_pets.r1", "captions.r1"]
    assert [kind_of(name) for name in told] == ["sts", "judgements", "cxc", "classes", None]
