"""One holder at a time, told by name, and free again after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crossalign.lock import FileLock

HOLDER = """
import os, sys, time
from crossalign.lock import FileLock
lock = FileLock(sys.argv[1], "a test")
assert lock.acquire()
if os.fork() == 0:
    time.sleep(float(sys.argv[2]))
    os._exit(0)
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


def test_a_second_opener_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock(path, "the first") as first, FileLock(path, "the second") as second:
        assert first.acquire()
        assert not second.acquire(0.1)
        assert second.holder().startswith(f"process {os.getpid()} (the first) since 2")
        first.release()
        assert second.acquire()
        first.release()
        with FileLock(path, "the third") as third:
            assert not third.acquire()
    with FileLock(path, "later") as later:
        assert later.acquire()
    assert path.read_text() == ""


def holder(path: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_killed_holder_is_none(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock", 0)
    with FileLock(tmp_path / "lock", "waiting") as lock:
        assert not lock.acquire()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert lock.acquire(5.0)


def test_letting_go_counts_also_while_a_forked_worker_lives(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock", 30)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "released\n"
    with FileLock(tmp_path / "lock", "waiting") as lock:
        assert lock.acquire()
    process.kill()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        FileLock(tmp_path / "none" / "lock", "a test")
