"""Folders are whole at any instant, and what a killed writer leaves does not stay."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crossalign import folders
from crossalign.data.collection import CaptionRecord, Collection, ImageRecord
from crossalign.errors import CrossAlignError
from crossalign.files import atomic_path, write_text
from crossalign.folders import atomic_folder, restore_folder

# Dies at a moment: the way of swapping, the function, before or after its call of that number.
DOOMED = """
import os, shutil, signal, sys
from pathlib import Path
from crossalign import folders

target, swap, moment = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
name, when, number = moment.split(":")
if swap == "two renames":
    folders._exchange = lambda one, other: False

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def deadly(original):
    calls = 0
    def call(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == int(number) and when == "before":
            die()
        result = original(*arguments, **options)
        if calls == int(number) and when == "after":
            die()
        return result
    return call

owner = {"rename": Path, "_exchange": folders, "rmtree": shutil}.get(name)
with folders.atomic_folder(target, overwrite=True) as temporary:
    if owner is not None:
        setattr(owner, name, deadly(getattr(owner, name)))
    for part in ("a", "b"):
        (temporary / part).write_text("new")
        if name == "write":
            die()
raise SystemExit("the moment never came")
"""
MOMENTS = [
    ("exchange", "write:at:0"),
    ("exchange", "_exchange:before:1"),
    ("exchange", "_exchange:after:1"),
    ("exchange", "rmtree:after:1"),
    ("two renames", "write:at:0"),
    ("two renames", "rename:before:1"),
    ("two renames", "rename:after:1"),
    ("two renames", "rename:before:2"),
    ("two renames", "rename:after:2"),
    ("two renames", "rmtree:before:1"),
    ("two renames", "rmtree:after:1"),
]


def write(target: Path, text: str) -> None:
    with atomic_folder(target, overwrite=True) as temporary:
        for part in ("a", "b"):
            (temporary / part).write_text(text)


def content(target: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in target.iterdir()}


def killed(target: Path, swap: str, moment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DOOMED, str(target), swap, moment], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(("swap", "moment"), MOMENTS)
def test_a_killed_writer_leaves_the_old_folder_or_the_new_one(tmp_path: Path, swap: str, moment: str) -> None:
    target = tmp_path / "model.v1"
    write(target, "old")
    killed(target, swap, moment)
    restore_folder(target)
    assert content(target) in ({"a": "old", "b": "old"}, {"a": "new", "b": "new"})
    write(target, "next")
    assert content(target) == {"a": "next", "b": "next"}
    assert [path.name for path in tmp_path.iterdir()] == ["model.v1"]


def test_a_killed_first_writer_leaves_nothing_that_stays(tmp_path: Path) -> None:
    killed(tmp_path / "m", "exchange", "write:at:0")
    assert not (tmp_path / "m").exists()
    assert len(list(tmp_path.iterdir())) == 1
    write(tmp_path / "m", "next")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_killed_writer_between_two_renames_is_mended_by_the_next_who_comes(tmp_path: Path) -> None:
    collection = Collection.write(
        tmp_path / "c",
        name="c",
        image_root=tmp_path,
        images=[ImageRecord(id="i", file="", width=1, height=1)],
        captions=[CaptionRecord(id="c", image_id="i", text="a dog", split="train")],
        provenance={},
    )
    killed(collection.folder, "two renames", "rename:after:1")
    assert not collection.folder.exists()
    assert Collection.load(collection.folder).split("train").texts == ("a dog",)
    killed(collection.folder, "two renames", "rename:after:1")
    with (
        pytest.raises(CrossAlignError, match="already exists"),
        atomic_folder(collection.folder, overwrite=False),
    ):
        pass
    assert Collection.load(collection.folder).name == "c"


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "c").write_text("of the old one")
    write(tmp_path / "m", "new")
    assert content(tmp_path / "m") == {"a": "new", "b": "new"}
    # Through a link the folder that it leads to.
    (tmp_path / "link").symlink_to(tmp_path / "m")
    write(tmp_path / "link", "newer")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "m") == {"a": "newer", "b": "newer"}
    assert {path.name for path in tmp_path.iterdir()} == {"m", "link"}


def test_this_machine_swaps_in_one_step_where_linux_can(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "one" / "a").write_text("one")
    if not folders._exchange(tmp_path / "one", tmp_path / "other"):
        pytest.skip("this file system cannot exchange two names")
    assert content(tmp_path / "other") == {"a": "one"}
    with pytest.raises(FileNotFoundError):
        folders._exchange(tmp_path / "one", tmp_path / "none")


@pytest.mark.parametrize("first", [True, False])
def test_all_is_on_the_disk_before_the_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    target = tmp_path / "m"
    if not first:
        write(target, "old")
    synced: set[int] = set()
    at_swap: list[set[int]] = []

    def noting(swap: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            at_swap.append(set(synced))
            return swap(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", lambda handle: synced.add(os.fstat(handle).st_ino))
    monkeypatch.setattr(Path, "rename", noting(Path.rename))
    monkeypatch.setattr(folders, "_exchange", noting(folders._exchange))
    with atomic_folder(target, overwrite=True) as temporary:
        (temporary / "deep" / "er").mkdir(parents=True)
        for number in range(40):
            (temporary / "deep" / "er" / f"{number}.png").write_text("new")
        (temporary / "a").write_text("new")
        (temporary / "dangling").symlink_to("nothing")
    whole = {path.stat().st_ino for path in (target, *target.rglob("*")) if not path.is_symlink()}
    assert len(whole) == 44
    assert whole <= at_swap[0]
    assert synced - at_swap[0] == {tmp_path.stat().st_ino}


def test_a_disk_that_fails_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "m", "old")

    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write(tmp_path / "m", "new")
    assert content(tmp_path / "m") == {"a": "old", "b": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_failed_writer_changes_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "m", overwrite=True) as temporary:
            (temporary / "a").write_text("new")
            raise InterruptedError

    write(tmp_path / "m", "old")
    with pytest.raises(InterruptedError):
        fail()
    assert content(tmp_path / "m") == {"a": "old", "b": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_writer_that_lives_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "m"
    with atomic_folder(target, overwrite=True) as first:
        (first / "a").write_text("first")
        write(target, "second")
        assert (first / "a").read_text() == "first"
    assert content(target) == {"a": "first"}
    with atomic_path(tmp_path / "f") as first:
        first.write_text("first")
        write_text(tmp_path / "f", "second")
        assert first.read_text() == "first"
    assert (tmp_path / "f").read_text() == "first"


def test_only_orphans_of_the_same_name_are_removed(tmp_path: Path) -> None:
    for name in (".m.abcd1234.tmp", ".f.abcd1234.tmp"):
        (tmp_path / name).mkdir()
    orphan = tmp_path / ".f.zyxw_987.tmp"
    orphan.write_text("cut")
    kept = {".m.v2.abcd1234.tmp", ".m.notes.tmp", "m.abcd1234.tmp", ".m.tmp"}
    for name in kept:
        (tmp_path / name).write_text("another's")
    write(tmp_path / "m", "new")
    write_text(tmp_path / "f", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"m", "f", *kept}


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("mine")
    with (
        pytest.raises(CrossAlignError, match="not a folder"),
        atomic_folder(tmp_path / "m", overwrite=True),
    ):
        pass
    assert (tmp_path / "m").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1
