"""A study on synthetic scenes knows which region a word means."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from tiny_study import Place, go

from crossalign.data.scenes.make import make_scenes
from crossalign.study import load_study
from crossalign.study.records import read_records
from crossalign.study.report import write_report


def test_word_to_region_accuracy_is_in_record_and_table(tmp_path: Path) -> None:
    place = Place(tmp_path)
    make_scenes(tmp_path / "scenes", train=64, val=16, test=16, seed=1)
    recipe = {"extends": "scenes-vse", "name": "few", "training": {"epochs": 1, "batch_size": 32}}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(recipe))
    values = {
        "name": "scenes", "title": "Scenes", "baseline": "base", "collection": str(tmp_path / "scenes"),
        "variants": {"base": {"recipe": "few.yaml"}},
    }  # fmt: skip
    place.file.write_text(yaml.safe_dump(values))
    assert go(place, seeds=(0,)).done == ["base-seed0"]
    outcome = read_records(place.out)["base", 0].outcome
    assert outcome is not None
    assert outcome.word_to_region is not None
    saved = json.loads((place.runs / "base-seed0" / "results" / "test" / "grounding.json").read_text())
    for name in ("accuracy", "chance", "words"):
        assert outcome.word_to_region[name] == saved[name]
    write_report(load_study(place.file), place.out, [0])
    table = (place.out / "table.md").read_text()
    assert f"| {saved['accuracy']:.1f} (chance {saved['chance']:.1f}) |" in table
