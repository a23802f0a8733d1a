"""The command compare: what it prints, how runs are named, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from crossalign.cli.compare import command
from crossalign.errors import CrossAlignError
from crossalign.evaluation import RankTable, RetrievalResult, bootstrap_intervals

app = typer.Typer()
app.command()(command)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Four results: two poor ones, two good ones."""
    folders = []
    for seed, chance in enumerate((0.2, 0.2, 0.5, 0.5)):
        random = np.random.default_rng(seed)
        owner = np.repeat(np.arange(100), 5)
        table = RankTable(random.geometric(chance, 100), random.geometric(chance, 500), owner)
        intervals = bootstrap_intervals(table, resamples=20)
        folders.append(tmp_path / f"run{seed}")
        RetrievalResult(table, intervals, 0.95, 20, 0, collection="tiny", split="test").save(folders[-1])
    return folders


def test_two_runs_as_a_table_and_as_json(runs: list[Path]) -> None:
    table = run(runs[0], runs[2] / "results.json", "--resamples", 500)
    assert table.exit_code == 0
    assert "R@sum" in table.output
    assert "***" in table.output or "**" in table.output
    document = json.loads(run(runs[0], runs[2], "--resamples", 500, "--json").output)
    assert document["baseline_runs"] == [str(runs[0])]
    last = document["differences"][-1]
    metrics = [RetrievalResult.load(runs[place]).metrics["rsum"] for place in (0, 2)]
    assert last["metric"] == "rsum"
    assert last["difference"] == pytest.approx(metrics[1] - metrics[0])
    assert last["baseline_sd"] is None
    assert last["p_value"] == pytest.approx(1 / 501)


def test_groups_of_seeds(runs: list[Path]) -> None:
    named = ["--baseline", runs[0], "-b", runs[1], "--candidate", runs[2], "-c", runs[3], "--resamples", 300]
    assert "±" in run(*named).output
    document = json.loads(run(*named, "--json").output)
    assert document["candidate_runs"] == [str(runs[2]), str(runs[3])]
    sums = [RetrievalResult.load(path).metrics["rsum"] for path in runs]
    last = document["differences"][-1]
    assert last["baseline"] == pytest.approx(np.mean(sums[:2]))
    assert last["candidate_sd"] == pytest.approx(np.std(sums[2:], ddof=1))


def test_refusals(runs: list[Path], tmp_path: Path) -> None:
    document = json.loads((runs[3] / "results.json").read_text())
    (runs[3] / "results.json").write_text(json.dumps(document | {"split": "val"}))
    for arguments, message in (
        ((), "compare needs two results"),
        ((runs[0],), "found 1 results, 0 baselines and 0 candidates"),
        ((runs[0], "-b", runs[1]), "compare needs two results"),
        (("-b", runs[1]), "0 candidates"),
        ((runs[0], tmp_path / "nowhere"), "holds no results.json"),
        ((tmp_path, runs[1]), f"holds no results.json; did you mean {runs[0]}?"),
        (("-b", runs[0], "-b", runs[0] / "results.json", "-c", runs[1]), "given more than once"),
        (
            ("-b", runs[0], "-c", runs[1], "-c", runs[1]),
            f"--candidate {runs[1]}: given more than once",
        ),
        ((runs[0], runs[3]), "the split is 'test'"),
        ((runs[0], runs[1], "--confidence", 2), "confidence between 0 and 1"),
    ):
        result = run(*arguments)
        assert isinstance(result.exception, CrossAlignError), result.output
        assert message in str(result.exception)
        assert "\n" not in str(result.exception)


def test_comparing_needs_no_torch(runs: list[Path]) -> None:
    code = (
        "import sys; from crossalign.cli.compare import command;"
        f"command([{str(runs[0])!r}, {str(runs[2])!r}], resamples=10);"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "R@sum" in done.stdout
