"""``crossalign study`` as a user calls it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crossalign.cli.main import main
from crossalign.study import available_studies, load_study, plan_runs
from toy_collection import RECIPE, write_toy

Call = Callable[..., tuple[int, str, str]]
BASE = {"recipe": "toy.yaml", "set": {"objective.lca": None, "objective.cra": None}}


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line: exit code, standard output, standard error."""

    def called(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["study", *(str(argument) for argument in arguments)])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return called


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study in the folder that is the current one."""
    collection = write_toy(tmp_path / "toy")
    (tmp_path / "toy.yaml").write_text(RECIPE.format(folder=collection))
    values = {
        "name": "tiny",
        "title": "A tiny study",
        "baseline": "base",
        "seeds": [0],
        "set": {"training.epochs": 1},
        "variants": {"base": BASE, "whole": {"recipe": "toy.yaml"}},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return Path("tiny.yaml")


def one_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("crossalign: ")]
    assert len(lines) == 1
    assert text.splitlines()[-1] == lines[0]
    return lines[0]


def test_list_and_show_run_nothing(study: Path, call: Call) -> None:
    code, out, err = call("--list")
    names, told = zip(*(line.split(maxsplit=1) for line in out.splitlines()), strict=True)
    assert (code, names, err) == (0, available_studies(), "")
    assert told[names.index("codebook-size")] == "Size of the codebook, Flickr8k"
    for arguments in (("--show", "codebook-size"), ("codebook-size", "--show")):
        code, out, err = call(*arguments)
        assert (code, err) == (0, "")
        Path("shown.yaml").write_text(out)
        assert plan_runs(load_study("shown.yaml"), [0]) == plan_runs(load_study("codebook-size"), [0])
    assert not Path("runs").exists()
    assert not Path("studies").exists()


def test_a_study_grows_into_its_folders(study: Path, call: Call) -> None:
    code, out, err = call(study, "--only", "base")
    assert code == 0
    assert "base-seed0: run 1 of 1" in err
    assert "not run yet: whole" in out
    assert out.splitlines()[-1] == "saved: studies/tiny/table.md"
    assert Path("runs/studies/tiny/base-seed0/model/config.json").is_file()
    code, out, err = call(study, "--json")
    assert code == 0
    assert "whole-seed0: run 2 of 2" in err
    document = json.loads(out)
    assert document == json.loads(Path("studies/tiny/study.json").read_text())
    assert [row["runs"]["done"] for row in document["variants"].values()] == [[0], [0]]
    assert document["variants"]["whole"]["against"][0]["variant"] == "base"
    assert "| `whole` | 1 of 1 |" in Path("studies/tiny/table.md").read_text()
    # Nothing is left to do; more seeds are more to do.
    assert "run 1" not in call(study)[2]
    code, out, err = call(study, "--seeds", "0,3", "--only", "whole")
    assert (code, "whole-seed3: run 2 of 2" in err) == (0, True)
    assert "not run yet with seed 3: base" in out


def test_a_table_too_wide_for_the_terminal_shows_what_counts(study: Path, call: Call) -> None:
    code, out, _ = call(study)
    assert (code, "CPU minutes" in out, "R@10" in out) == (0, True, True)
    values = yaml.safe_load(study.read_text())
    numbers = ["hinge", "lca", "cra", "cra_top1", "lca_region_perplexity", "lca_word_perplexity"]
    study.write_text(yaml.safe_dump(values | {"numbers": numbers}))
    code, out, _ = call(study)
    assert (code, "CPU minutes" in out, "R@10" in out, "validation R@sum" in out) == (0, False, False, True)
    assert out.splitlines()[-1] == "saved: studies/tiny/table.md, which has all columns"
    assert "| CPU minutes |" in Path("studies/tiny/table.md").read_text()


def test_a_report_trains_nothing(study: Path, call: Call) -> None:
    code, out, _ = call(study, "--report", "--out", "elsewhere")
    assert code == 0
    assert "not run yet" in out
    assert not Path("runs").exists()
    assert Path("elsewhere/study.png").is_file()


def test_a_failure_ends_with_one_line_after_the_table(study: Path, call: Call) -> None:
    code, out, err = call(study, "--set", "data.image_features=[none]")
    assert code == 1
    assert "saved: studies/tiny/table.md" in out
    line = one_line(err)
    assert line.startswith(
        "crossalign: 2 of 2 runs have no result, the first is base-seed0: no FeatureStore 'none'"
    )
    assert line.endswith("mend it and add --retry")
    assert call(study, "--set", "data.image_features=[none]", "--report")[0] == 0
    assert call(study)[0] == 0, "with other settings it has not failed yet"


def test_changed_settings_end_with_one_line(study: Path, call: Call) -> None:
    assert call(study)[0] == 0
    code, out, err = call(study, "--set", "model.dim=24")
    assert code == 1
    line = one_line(err)
    assert "studies/tiny/records/base-seed0.json: made with other settings (model.dim)" in line
    assert "choose another --out" in line
    assert "base, seed 0: left out, made with other settings (model.dim)" in out


def test_without_matplotlib_there_is_a_table_and_a_word(
    study: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossalign.study import report

    monkeypatch.setattr(report, "find_spec", lambda name: None)
    code, _, err = call(study, "--report")
    assert code == 0
    assert err.splitlines() == [
        "no study.png: drawing needs matplotlib; run: pip install 'crossalign[report]'"
    ]
    assert Path("studies/tiny/table.md").is_file()
    assert not Path("studies/tiny/study.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give a study: codebook-size, controls"),
        (["no-such"], 1, "no study 'no-such'; there are codebook-size"),
        (["none.yaml"], 1, "none.yaml: no such study file"),
        (["tiny.yaml", "--only", "bass"], 1, "study tiny: no variant 'bass'; there are base, whole"),
        (["tiny.yaml", "--seeds", "0;1"], 2, "'0;1' is not a list of different seeds such as 0,1,2"),
        (["tiny.yaml", "--seeds", "1,1"], 2, "not a list of different seeds"),
        (["tiny.yaml", "--seeds", "01,1"], 2, "not a list of different seeds"),
        (["tiny.yaml", "--seeds", f"{2**63}"], 2, "not a list of different seeds"),
        (["tiny.yaml", "--seeds", ""], 2, "not a list of different seeds"),
        (
            ["tiny.yaml", "--set", "training.epoch=3"],
            1,
            "variant base: recipe toy.yaml, as changed: unknown key 'training.epoch'",
        ),
        (["tiny.yaml", "--set", "training.epochs"], 1, "not of the form section.key=value"),
        (["tiny.yaml", "--device", "cuda:9"], 1, "--device cuda:9: PyTorch finds no CUDA device here"),
        (
            ["tiny.yaml", "--device", "banana"],
            1,
            "--device banana: no device that can be used here; give auto, cpu",
        ),
    ],
)
def test_bad_calls_end_with_one_line_and_leave_nothing(
    study: Path, call: Call, arguments: list[str], code: int, message: str
) -> None:
    import torch

    if "cuda:9" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    ended, out, err = call(*arguments)
    assert (ended, out) == (code, "")
    assert message in " ".join(err.replace("│", " ").split())
    assert not Path("runs").exists()
    assert not Path("studies").exists()
