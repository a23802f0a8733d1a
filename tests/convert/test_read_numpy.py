"""NumPy files of published code: arrays are mapped, what is pickled in them is read as data, and nothing is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossalign.convert.unpickle import read_numpy
from crossalign.errors import CrossAlignError


def save(path: Path, value: Any) -> Path:
    np.save(path, value, allow_pickle=True)
    return path


def header(path: Path, content: bytes, shape: tuple[int, ...] = ()) -> Path:
    """A file with the header of an array of objects and any pickle behind it."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": shape})
        file.write(content)
    return path


def test_numbers_are_mapped_and_not_loaded(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for order in ("C", "F"):
        found = read_numpy(save(tmp_path / "a.npy", np.asarray(values, order=order)))
        assert isinstance(found, np.memmap)
        np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(read_numpy(save(tmp_path / "b.npy", np.array(["a", "bc"]))), ["a", "bc"])


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "<i8"])
def test_a_dictionary_comes_as_it_was_saved(tmp_path: Path, dtype: str) -> None:
    random = np.random.default_rng(0)
    saved = {
        "184613": random.normal(size=(1, 4)).astype(dtype),
        7: random.normal(size=(2, 3)).astype(dtype).T,
        "inner": {"list": [1, 2.5, None], "scalar": np.float32(0.25)},
    }
    found = read_numpy(save(tmp_path / "d.npy", saved))
    assert list(found) == list(saved)
    for key in ("184613", 7):
        np.testing.assert_array_equal(np.asarray(found[key]), saved[key])
    assert found["inner"] == {"list": [1, 2.5, None], "scalar": 0.25}


def test_an_array_of_objects_comes_as_a_list(tmp_path: Path) -> None:
    saved = np.empty(3, dtype=object)
    saved[:] = ["x", np.arange(2.0), 5]
    found = read_numpy(save(tmp_path / "o.npy", saved))
    assert found[0] == "x"
    assert found[1].tolist() == [0.0, 1.0]
    assert found[2] == 5


class Attack:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    for number, value in enumerate(
        ({"a": Attack(tmp_path / "run")}, np.array([Attack(tmp_path / "run")] * 2, dtype=object))
    ):
        with pytest.raises(CrossAlignError, match=r"refused, it asks for '(posix|os)\.system'"):
            read_numpy(save(tmp_path / f"{number}.npy", value))
    path = header(tmp_path / "bare.npy", pickle.dumps(Attack(tmp_path / "run")))
    with pytest.raises(
        CrossAlignError, match=r"refused, it asks for '(posix|os)\.system'.*save ids and vectors alone"
    ):
        read_numpy(path)
    assert not (tmp_path / "run").exists()


def test_what_is_no_data_is_refused_and_what_is_damaged_said(tmp_path: Path) -> None:
    def told(path: Path) -> str:
        with pytest.raises(CrossAlignError) as error:
            read_numpy(path)
        assert "\n" not in str(error.value)
        return str(error.value)

    inner = np.empty(1, dtype=object)
    assert "refused" in told(save(tmp_path / "nested.npy", {"a": inner})) or "damaged" in told(
        tmp_path / "nested.npy"
    )
    assert "refused, it asks for" in told(save(tmp_path / "tensor.npy", {"a": torch.ones(2)}))
    network = told(save(tmp_path / "network.npy", {"a": torch.nn.Linear(1, 1)}))
    assert network.endswith("save ids and vectors alone: an array with numpy.save, the ids in a text file")
    assert "state" not in network
    assert "no such file" in told(tmp_path / "nowhere.npy")
    whole = save(tmp_path / "whole.npy", {"a": np.arange(50.0)})
    for length in (3, 40, whole.stat().st_size - 20):
        cut = tmp_path / "cut.npy"
        cut.write_bytes(whole.read_bytes()[:length])
        assert "damaged, or no file of numpy.save" in told(cut)
    (tmp_path / "text.npy").write_text("a,b,c\n1,2,3\n")
    assert "damaged, or no file of numpy.save" in told(tmp_path / "text.npy")
    for number, content in enumerate((np.arange(3.0), [1, 2], {"a": 1})):
        path = header(tmp_path / f"other{number}.npy", pickle.dumps(content))
        assert "damaged" in told(path)
    longer = header(tmp_path / "longer.npy", pickle.dumps(np.array({"a": 1}, dtype=object)), shape=(4,))
    assert "damaged" in told(longer)
