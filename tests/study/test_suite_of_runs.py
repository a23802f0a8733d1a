"""A study that measures more of each run than retrieval."""

from __future__ import annotations

import json

from tiny_study import STUDY, Place

from crossalign.study.records import read_records


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
