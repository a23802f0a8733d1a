"""The page on studies and the page of results say what the package and the committed studies hold."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from tiny_study import Place

from crossalign.study import available_studies, load_study, plan_runs
from crossalign.study.report import write_report

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "studies.md").read_text("utf-8")


def test_every_study_of_the_package_stands_on_the_page() -> None:
    told = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    assert sorted(re.findall(r"`([\w-]+)`", " ".join(told))) == list(available_studies())


def test_the_example_is_a_study(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "my-lca.yaml").write_text(example)
    (tmp_path / "my-recipe.yaml").write_text("extends: flickr8k-vse-selfalign\nname: mine\n")
    recipes = {run.variant: run.recipe for run in plan_runs(load_study(tmp_path / "my-lca.yaml"), [0])}
    assert recipes["mine"].training.batch_size == 256
    assert {recipe.data.collection for recipe in recipes.values()} == {"my-photos"}


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """docs/make_results.py with results of its own."""
    spec = spec_from_file_location("make_results", ROOT / "docs" / "make_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    return module


def test_studies_in_the_results_have_their_sections(
    pages: ModuleType, finished: Place, tmp_path: Path
) -> None:
    study = load_study(finished.file)
    folders = {name: tmp_path / "results" / "studies" / name for name in ("flickr8k", "another")}
    for name, folder in folders.items():
        shutil.copytree(finished.out / "records", folder / "records")
        changes = ["model.dim=8"] if name == "another" else []
        write_report(study.model_copy(update={"name": name}), folder, [0, 1, 2], changes)
    for full in (True, False):
        text = pages.sections("../", full=full)
        assert "| `+lca` | 2 of 3 |" in text
        assert ("- not run yet with seed 2: base, +lca" in text) is full
        assert ("+lca, seed 0: left out, made with other settings (model.dim)" in text) is full
        assert ("`crossalign study another.yaml --set model.dim=8 --seeds 0,1,2`" in text) is full
        assert ("benchmarks/results/studies/another/study.json" in text) is full
        assert ("studies/flickr8k/study.png" in text) is full
    own = tmp_path / "results" / "studies" / "tiny"
    shutil.copytree(finished.out / "records", own / "records")
    summary = write_report(study, own, [0, 1])
    assert json.loads((own / "study.json").read_text()) == summary
    rsum = summary["variants"]["+lca"]["test"]["rsum"]
    assert f"| {rsum['mean']:.1f} ± {rsum['sd']:.1f} |" in pages.sections("", full=True)


def test_the_committed_pages_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_from_file_location("make_results", ROOT / "docs" / "make_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    for page, up, full in (("README.md", "", False), ("docs/results.md", "../", True)):
        text = (ROOT / page).read_text("utf-8")
        assert module.sections(up, full=full) in text, "run: python docs/make_results.py"
