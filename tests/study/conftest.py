"""Places with a tiny study: fresh, finished, or a copy of the finished one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_study import Place, go, write_place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = write_place(tmp_path)
    made.write()
    return made


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A study that has run from beginning to end; only to be looked at."""
    place = write_place(tmp_path_factory.mktemp("finished"))
    place.write()
    tally = go(place)
    assert tally.done == ["base-seed0", "+lca-seed0", "base-seed1", "+lca-seed1"]
    return place


@pytest.fixture
def copy(finished: Place, tmp_path: Path) -> Place:
    """The finished study once more, to be changed."""
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    return Place(tmp_path)


@pytest.fixture
def heard() -> tuple[list[str], Callable[[str], None]]:
    """A list of lines and what appends to it."""
    lines: list[str] = []
    return lines, lines.append
