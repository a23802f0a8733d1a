"""The table and the picture of a summary made by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossalign.study.plot import draw_study
from crossalign.study.table import markdown_table, notes, origin_line, study_page


def spread(*values: float) -> dict[str, Any]:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "values": list(values)}


def row(*rsums: float, **changes: Any) -> dict[str, Any]:
    runs = {"done": list(range(len(rsums))), "missing": [], "failed": {}, "differing": {}}
    made: dict[str, Any] = {"recipe": "r", "x": None, "runs": runs, "against": []}
    if rsums:
        names = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10")
        made |= {
            "test": {name: spread(30.0) for name in names} | {"rsum": spread(*rsums)},
            "validation_rsum": spread(*rsums),
            "word_to_region": None,
            "training_minutes": spread(*(4.0 for _ in rsums)),
            "numbers": {},
        }
    return made | changes


def comparison(difference: float, **changes: Any) -> dict[str, Any]:
    rsum = {"difference": difference, "low": difference - 1, "high": difference + 1, "p_value": 0.0213}
    return {
        "variant": "base", "seeds": [0, 1], "confidence": 0.95, "images": 1000,
        "differences": {"rsum": rsum}, **changes,
    }  # fmt: skip


MACHINE = {"processor": "P", "cores": 2, "threads": 1}
SUMMARY: dict[str, Any] = {
    "study": {"name": "s", "title": "A title", "baseline": "base", "plot": None, "numbers": [], "seeds": [0, 1]},
    "split": "test",
    "seeds": [0, 1],
    "overrides": [],
    "variants": {
        "base": row(300.0, 302.0),
        "better": row(305.0, 308.0, against=[comparison(5.5)]),
        "none": row(against=[{"variant": "base", "seeds": [], "reason": "no seed that both have yet"}]),
    },
    "unknown_records": [],
    "origin": {
        "versions": ["0.1.0"], "commits": ["a" * 40], "dirty": False, "machines": [MACHINE],
        "first": "2024-01-01T00:00:00", "last": "2024-01-03T00:00:00",
    },
}  # fmt: skip
SUMMARY["variants"]["none"]["runs"]["missing"] = [0, 1]


def with_axis() -> dict[str, Any]:
    summary = copy.deepcopy(SUMMARY)
    summary["study"] |= {"plot": {"x": "size", "log": True}, "numbers": ["usage"]}
    for place, name in ((8, "better"), (64, "none")):
        summary["variants"][name]["x"] = place
    summary["variants"]["more"] = row(303.0, 306.0, x=16.0, numbers={"usage": spread(3.0, 5.0)})
    return summary


def test_the_table_says_what_the_summary_holds() -> None:
    heading, _, base, better = markdown_table(SUMMARY)
    assert heading.count("|") == base.count("|") == better.count("|")
    assert "| `base` | 2 of 2 |" in base
    assert "301.0 ± 1.4 | 301.0 ± 1.4 | 4.0 ± 0.0 | – |" in base
    assert better.endswith("| +5.5 (+4.5 to +6.5), p = 0.021 |")


def test_another_opponent_is_named_and_pipes_do_no_harm() -> None:
    summary = copy.deepcopy(SUMMARY)
    summary["variants"]["third"] = row(301.0, 301.5, against=[comparison(-3.0, variant="better")])
    assert markdown_table(summary)[-1].endswith("| -3.0 (-4.0 to -2.0), p = 0.021, to better |")
    summary["variants"]["third"]["against"].insert(0, comparison(0.25))
    assert markdown_table(summary)[-1].endswith(
        "| +0.2 (-0.8 to +1.2), p = 0.021; -3.0 (-4.0 to -2.0), p = 0.021, to better |"
    )
    assert markdown_table(summary, brief=True)[-1].endswith("| +0.2 (-0.8 to +1.2), p = 0.021 |")
    summary["study"]["numbers"] = ["a|b"]
    summary["variants"]["third"]["numbers"] = {"a|b": spread(0.123456)}
    assert r"| a\|b |" in markdown_table(summary)[0]
    assert "| 0.1235 |" in markdown_table(summary)[-1]


def test_words_have_a_column_where_they_are_known() -> None:
    summary = copy.deepcopy(SUMMARY)
    summary["variants"]["better"]["word_to_region"] = {"accuracy": spread(40.0, 42.0), "chance": spread(12.5)}
    heading, _, base, better = markdown_table(summary)
    assert "| word→region % |" in heading
    assert "| 41.0 ± 1.4 (chance 12.5) |" in better
    assert heading.count("|") == base.count("|")


def test_nothing_missing_or_wrong_is_hidden() -> None:
    summary = copy.deepcopy(SUMMARY)
    runs = summary["variants"]["better"]["runs"]
    runs["failed"], runs["differing"] = {"4": "out of luck"}, {"5": ["model.dim"]}
    summary["variants"]["base"]["against"] = [{"variant": "better", "seeds": [0], "reason": "no ranks"}]
    summary["unknown_records"] = ["old"]
    summary["study"]["numbers"] = ["lca_entrpy"]
    assert list(notes(summary)) == [
        "base: not compared with better: no ranks",
        "better, seed 4: failed: out of luck",
        "better, seed 5: left out, made with other settings (model.dim); repeat the --set of then, or remove the "
        "record and run it again",
        "not run yet: none",
        "no finished run has the number 'lca_entrpy'; it is misspelt, or what it measures is not on",
        "old: has records but is no variant of the study; remove them",
    ]
    page = study_page(summary, picture="study.png")
    assert all(f"- {note}" in page for note in notes(summary))


def test_variants_without_a_run_are_named_in_one_line_and_take_no_room(tmp_path: Path) -> None:
    summary = copy.deepcopy(SUMMARY)
    summary["variants"]["later"] = copy.deepcopy(summary["variants"]["none"])
    summary["variants"]["base"]["runs"]["missing"] = summary["variants"]["better"]["runs"]["missing"] = [2, 3]
    assert list(notes(summary)) == ["not run yet with seed 2, 3: base, better", "not run yet: none, later"]
    assert len(markdown_table(summary)) == len(markdown_table(SUMMARY))
    tall = pixels(SUMMARY, tmp_path / "one.png").shape[0]
    assert pixels(summary, tmp_path / "two.png").shape[0] == tall
    summary["variants"]["later"] = row(300.0)
    assert pixels(summary, tmp_path / "three.png").shape[0] > tall
    assert len(markdown_table(summary)) == len(markdown_table(SUMMARY)) + 1


def test_the_page_says_how_it_was_made() -> None:
    summary = copy.deepcopy(SUMMARY) | {"overrides": ["training.epochs=2"]}
    page = study_page(summary, picture="study.png")
    assert page.startswith("# A title\n")
    assert "`crossalign study s.yaml --set training.epochs=2`" in page
    summary["seeds"] = [0, 3]
    summary["study"]["numbers"] = ["lca", "sts.average"]
    assert "`crossalign study s.yaml --set training.epochs=2 --seeds 0,3 --sts FOLDER`" in study_page(summary)
    summary["study"]["name"] = "flickr8k-cusa"
    assert "`crossalign study flickr8k-cusa --set" in study_page(summary)
    assert "(study.png)" in page
    assert "study.png" not in study_page(summary)
    assert "by crossalign 0.1.0 (commit aaaaaaa) on P, 2 cores, 1 thread." in page
    assert "the 95 % bootstrap interval" in page
    empty = {**SUMMARY["origin"], "machines": []}
    assert origin_line(SUMMARY | {"origin": empty}) == "No run has ended yet."


def pixels(summary: dict[str, Any], path: Path) -> np.ndarray:
    draw_study(summary, path)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.parametrize("summary", [SUMMARY, with_axis()], ids=["rows", "axis"])
def test_the_picture_shows_the_numbers(summary: dict[str, Any], tmp_path: Path) -> None:
    before = pixels(summary, tmp_path / "one.png")
    assert before.shape[0] > 200
    assert (before == pixels(summary, tmp_path / "again.png")).all()
    changed = copy.deepcopy(summary)
    changed["variants"]["better"]["test"]["rsum"] = spread(301.0, 308.0)
    assert (before != pixels(changed, tmp_path / "two.png")).any()


def test_what_others_are_compared_with_has_a_colour_of_its_own(tmp_path: Path) -> None:
    def blue(summary: dict[str, Any], name: str) -> int:
        return int((pixels(summary, tmp_path / name) == (47, 109, 179)).all(axis=2).sum())

    summary = copy.deepcopy(SUMMARY)
    summary["variants"]["third"] = row(301.0, 301.5, against=[comparison(-3.0)])
    before = blue(summary, "one.png")
    assert before > 50
    summary["variants"]["third"]["against"][0]["variant"] = "better"
    assert blue(summary, "two.png") > 1.5 * before


def test_further_numbers_have_panels_and_nothing_done_is_drawn_too(tmp_path: Path) -> None:
    summary = with_axis()
    tall = pixels(summary, tmp_path / "one.png").shape[0]
    summary["study"]["numbers"] = []
    assert pixels(summary, tmp_path / "two.png").shape[0] < tall
    for empty in (SUMMARY, with_axis()):
        nothing = copy.deepcopy(empty)
        nothing["variants"] = {name: row(x=entry["x"]) for name, entry in nothing["variants"].items()}
        assert pixels(nothing, tmp_path / "none.png").min() < 100
