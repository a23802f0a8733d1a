"""A tiny study on the toy collection, run here or by the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crossalign.study import StudySettings, load_study, plan_runs
from crossalign.study.runner import StudyRunner, Tally
from toy_collection import RECIPE, write_toy

STUDY: dict[str, Any] = {
    "name": "tiny",
    "title": "A tiny study",
    "baseline": "base",
    "seeds": [0, 1],
    "set": {"training.epochs": 2},
    "variants": {
        "base": {"recipe": "toy.yaml", "set": {"objective.lca": None, "objective.cra": None}},
        "+lca": {"recipe": "toy.yaml", "set": ["objective.cra=null"]},
    },
}
PROGRAM = "import sys; from crossalign.cli.main import main; main(sys.argv[1:])"


@dataclass(frozen=True)
class Place:
    """A folder with the toy collection, its recipe and a study; ``out`` and ``runs`` as a user would name them."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "tiny.yaml"

    @property
    def out(self) -> Path:
        return self.folder / "studies" / "tiny"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def write(self, **changes: Any) -> StudySettings:
        """Write the study, changed."""
        self.file.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
        return load_study(self.file)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """``crossalign study`` in a process of its own."""
        words = [
            str(argument) for argument in (self.file, "--out", self.out, "--runs", self.runs, *arguments)
        ]
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "study", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def write_place(folder: Path) -> Place:
    collection = write_toy(folder / "toy")
    (folder / "toy.yaml").write_text(RECIPE.format(folder=collection))
    return Place(folder)


def go(place: Place, *overrides: str, seeds: tuple[int, ...] = (0, 1), **settings: Any) -> Tally:
    """One pass of a runner over the study as its file now says."""
    study = load_study(place.file)
    runner = StudyRunner(study.name, place.out, place.runs, progress=False, **settings)
    return runner.run(plan_runs(study, seeds, overrides))
