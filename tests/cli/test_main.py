"""The entry point: help, exit codes, one line for every error, a traceback only on demand."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import click
import pytest
import typer

from crossalign import __version__
from crossalign.cli import main as entry
from crossalign.cli.main import COMMANDS, main
from crossalign.errors import CrossAlignError

# Packages that cost seconds to import; help and wrong calls must not wait for them.
HEAVY = (
    "torch",
    "transformers",
    "timm",
    "pyarrow",
    "qdrant_edge",
    "matplotlib",
    "lightning_fabric",
    "onnxruntime",
)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_help_and_wrong_calls_of_every_command_import_nothing_heavy() -> None:
    """In one fresh process: the help of each, of the whole, of sub-commands, and calls that are refused."""
    program = f"""
import contextlib, io, json, sys, time
from crossalign.cli.main import COMMANDS, main

calls = [["--help"], ["--version"], ["nonsense"], ["train", "--nonsense"], ["demo", "--scenes", "59"]]
calls += [[name, "--help"] for name in COMMANDS]
calls += [["import", name, "--help"] for name in ("karpathy", "table", "folder", "cusa", "precomputed")]
report = []
for call in calls:
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(call)
    except SystemExit as ended:
        report.append([call, ended.code or 0, out.getvalue(), err.getvalue()])
heavy = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps([report, heavy]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report, heavy = json.loads(done.stdout)
    assert heavy == []
    for call, code, out, err in report:
        if call[-1] in ("--help", "--version"):
            assert (code, err) == (0, ""), call
            assert ("Usage: crossalign" in out) == (call[-1] == "--help")
        else:
            assert code == 2, call
            assert out == ""
    helps = {call[0]: out for call, _, out, _ in report if call[-1] == "--help" and len(call) == 2}
    assert set(helps) == set(COMMANDS)
    whole = next(out for call, _, out, _ in report if call == ["--help"])
    assert all(name in whole for name in COMMANDS)


def test_the_terminal_alone_breaks_the_lines_of_a_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for name in COMMANDS:
        _, out, _ = run(capsys, name, "--help")
        lines = [line.strip() for line in out.split("╭")[0].splitlines()]
        for line, following in pairwise(lines):
            # A line that goes on in the next is full.
            if line and following:
                assert len(line) + len(following.split()[0]) > 90, (name, line)


def test_every_device_option_names_the_same_choices(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("evaluate", "explain", "study", "index", "search"):
        assert "auto, cpu, cuda, cuda:1" in run(capsys, name, "--help")[1], name


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"crossalign {__version__}\n", "")


def test_an_unknown_command_or_option_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "trian")
    assert (code, out) == (2, "")
    assert "trian" in err
    assert "Traceback" not in err
    code, out, err = run(capsys, "train", "--epochz", "3")
    assert (code, out) == (2, "")
    assert "--epochz" in err


def test_without_anything_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, err = run(capsys)
    assert all(name in out + err for name in COMMANDS)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command line whose only command, ``fail``, raises what is put into the list."""
    raised: list[BaseException] = []
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.callback()
    def options() -> None:
        pass

    @app.command()
    def fail() -> None:
        raise raised[-1]

    monkeypatch.setattr(entry, "app", app)
    return raised


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (CrossAlignError("a.jpg: broken; mend it"), 1, "crossalign: a.jpg: broken; mend it\n"),
        (CrossAlignError("key '\x1b[2J\u202e'"), 1, "crossalign: key '\\x1b[2J\\u202e'\n"),
        (
            RuntimeError("two\n  lines"),
            70,
            "crossalign: unexpected RuntimeError: two lines (add --debug for the traceback)\n",
        ),
        (
            AssertionError(),
            70,
            "crossalign: unexpected AssertionError: no message (add --debug for the traceback)\n",
        ),
        (
            IsADirectoryError(errno.EISDIR, "Is a directory", "boxes"),
            1,
            "crossalign: boxes: Is a directory; give a file, not a folder\n",
        ),
        (
            OSError(errno.EIO, "Input/output error", Path("a.png")),
            1,
            "crossalign: a.png: Input/output error\n",
        ),
        (
            OSError(errno.EMFILE, "Too many open files", 3),
            70,
            "crossalign: unexpected OSError: [Errno 24] Too many open files: 3 "
            "(add --debug for the traceback)\n",
        ),
        (
            ConnectionError("nobody answers"),
            70,
            "crossalign: unexpected ConnectionError: nobody answers (add --debug for the traceback)\n",
        ),
        (
            MemoryError(),
            70,
            "crossalign: unexpected MemoryError: no message (add --debug for the traceback)\n",
        ),
    ],
)
def test_an_error_is_one_line_and_a_traceback_on_demand(
    failing: list[BaseException],
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    line: str,
) -> None:
    failing.append(error)
    assert run(capsys, "fail") == (code, "", line)
    for arguments in (["--debug", "fail"], ["fail", "--debug"]):
        with pytest.raises(type(error)) as caught:
            main(arguments)
        assert caught.value is error


def test_paths_that_cannot_be_written_or_read_are_bad_input(
    tmp_path: Path, tiny_photos: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tiny_photos(2).folder
    (photos / "captions.txt").write_text("photo000.jpg\ta\nphoto001.png\tb\n")
    imported = ("import", "folder", str(photos), "--split", "train", "--out")
    file = tmp_path / "file"
    file.write_text("mine")
    for arguments, named, reason in [
        ((*imported, f"{file}/x"), f"{file}: ", "File exists; something else is in this place"),
        ((*imported, "/proc/zz"), "/proc/", "No such file or directory; check the path"),
        (("demo", "--out", f"{file}/x"), f"{file}/x: ", "Not a directory; a part of this path is a file"),
    ]:
        code, out, err = run(capsys, *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert err.startswith(f"crossalign: {named}")
        assert reason in err
    assert file.read_text() == "mine"


def test_debug_shows_the_traceback_of_bad_input() -> None:
    program = "from crossalign.cli.main import main; main()"
    call = [sys.executable, "-c", program, "compare", "one", "two"]
    plain = subprocess.run(call, capture_output=True, text=True)
    assert plain.returncode == 1
    assert plain.stdout == ""
    assert plain.stderr.startswith("crossalign: ")
    assert plain.stderr.count("\n") == 1
    shown = subprocess.run([*call, "--debug"], capture_output=True, text=True)
    assert shown.returncode == 1
    assert "Traceback (most recent call last)" in shown.stderr
    assert shown.stderr.rstrip().splitlines()[-1].startswith("crossalign.errors.CrossAlignError: ")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, click.Abort])
def test_an_interruption_ends_quietly(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str], kind: type[BaseException]
) -> None:
    failing.append(kind())
    code, out, err = run(capsys, "fail")
    assert code != 0
    assert out == ""
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 1


def test_a_reader_that_goes_away_is_no_accident() -> None:
    """``crossalign train --show | head -1`` must not end with a complaint."""
    program = "from crossalign.cli.main import main; main()"
    shell = f'{sys.executable} -c "{program}" train scenes-vse --show | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
