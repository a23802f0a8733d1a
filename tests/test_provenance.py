"""Where numbers come from: the commit of the code and none else, command lines without places."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from crossalign import provenance
from crossalign.provenance import code_state, machine, now, shown_command, without_places


def commit(folder: Path) -> str:
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_is_that_of_the_repository_that_holds_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "src" / "package"
    package.mkdir(parents=True)
    monkeypatch.setattr(provenance, "PACKAGE", package)
    (package / "provenance.py").write_text("one")
    assert code_state() == {"commit": None, "dirty": None}
    (tmp_path / "results.json").write_text("{}")
    digest = commit(tmp_path)
    assert code_state() == {"commit": digest, "dirty": False}
    (tmp_path / "results.json").write_text("[]")
    assert code_state()["dirty"] is False, "results are not code"
    (package / "provenance.py").write_text("two")
    assert code_state() == {"commit": digest, "dirty": True}


def test_a_package_inside_a_strangers_repository_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / ".venv" / "package"
    package.mkdir(parents=True)
    (package / "provenance.py").write_text("")
    (tmp_path / ".gitignore").write_text(".venv\n")
    commit(tmp_path)
    monkeypatch.setattr(provenance, "PACKAGE", package)
    assert code_state() == {"commit": None, "dirty": None}


def test_command_lines_tell_no_place() -> None:
    words = ["study", "/home/me/tiny.yaml", "--set", "data.collection=/data/flickr8k", "--out", "studies/x"]
    told = "crossalign study tiny.yaml --set data.collection=flickr8k --out studies/x"
    assert shown_command("crossalign", words) == told
    root = Path("/home/me")
    assert (
        shown_command("python", ["/home/me/benchmarks/a.py", "a b"], root) == "python benchmarks/a.py 'a b'"
    )


def test_values_tell_no_place() -> None:
    values = {"a": ["/x/y", {"b": "c=/x/z"}], "n": 3, "t": "one/two", "none": None}
    assert without_places(values) == {"a": ["y", {"b": "c=z"}], "n": 3, "t": "one/two", "none": None}


def test_moments_sort_as_texts_and_the_machine_is_described() -> None:
    assert now() <= now()
    assert {"processor", "cores", "threads", "python", "torch"} <= machine().keys()
