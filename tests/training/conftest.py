"""A recipe on a small collection whose stored features carry what its captions say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from toy_collection import RECIPE, write_toy


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Path of a recipe that trains on the toy collection."""
    folder = write_toy(tmp_path / "toy")
    path = tmp_path / "toy.yaml"
    path.write_text(RECIPE.format(folder=folder))
    return path
