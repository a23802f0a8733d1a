"""Published features: ids and vectors as they were saved, or one line that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossalign.errors import CrossAlignError
from crossalign.teachers import read_published

VALUES = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def save(path: Path, value: Any) -> Path:
    np.save(path, value, allow_pickle=True)
    return path


@pytest.mark.parametrize("leading", [False, True])
def test_a_dictionary_as_published_for_unicom(tmp_path: Path, leading: bool) -> None:
    names = ["x", 184613, np.int64(5)]
    saved = {name: row[None] if leading else row for name, row in zip(names, VALUES, strict=True)}
    path = save(tmp_path / "a.npy", saved)
    found = read_published(path)
    assert list(found.vectors) == ["x", "184613", "5"]
    assert found.dim == 4
    np.testing.assert_array_equal(np.stack(list(found.vectors.values())), VALUES)
    assert len(found.sha256) == 64


@pytest.mark.parametrize("kind", ["txt", "json", "npy"])
def test_an_array_with_its_ids(tmp_path: Path, kind: str) -> None:
    path, ids = save(tmp_path / "a.npy", VALUES), tmp_path / f"ids.{kind}"
    names = ["1.jpg", "2.jpg", "ä b.jpg"]
    if kind == "txt":
        ids.write_text("\n".join(names) + "\n", "utf-8")
    elif kind == "json":
        ids.write_text(json.dumps(names))
    else:
        save(ids, np.array(names))
    found = read_published(path, ids)
    assert list(found.vectors) == names
    assert isinstance(found.vectors["2.jpg"].base, np.memmap)
    np.testing.assert_array_equal(found.vectors["2.jpg"], VALUES[1])


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    def told(value: Any, names: Any = None) -> str:
        path = save(tmp_path / "a.npy", value)
        ids = None
        if names is not None:
            ids = tmp_path / "ids.json"
            ids.write_text(json.dumps(names))
        with pytest.raises(CrossAlignError) as error:
            read_published(path, ids)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "an array (3, 4) without ids; name their file with --ids" in told(VALUES)
    assert "2 ids for the 3 rows" in told(VALUES, ["a", "b"])
    assert "the id 'a' stands there more than once" in told(VALUES, ["a", "b", "a"])
    assert "not a list of ids" in told(VALUES, {"a": 1})
    assert "has a float where an id belongs" in told(VALUES, ["a", "b", 1.5])
    assert "a dictionary, which has its ids in it" in told({"a": VALUES[0]}, ["a"])
    assert "the id '1' stands there more than once" in told({"1": VALUES[0], 1: VALUES[1]})
    assert "has a tuple where an id belongs" in told({("a", 1): VALUES[0]})
    assert "vectors of 3, 4 numbers" in told({"a": VALUES[0], "b": VALUES[1, :3]})
    assert "vectors of no numbers" in told({})
    assert "'a' has int64 of shape (2,)" in told({"a": np.arange(2)})
    assert "'a' has float32 of shape (3, 4)" in told({"a": VALUES})
    assert "an array (2, 3, 4); give a dictionary" in told(np.zeros((2, 3, 4), np.float32))
    assert "a list; give a dictionary" in told(np.array(["a", None], dtype=object))
