"""Weights files: what is none, or is damaged, is refused in one line."""

from __future__ import annotations

import argparse
import copy
import io
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from crossalign.encoders.weights import read_weights, require_finite
from crossalign.errors import CrossAlignError

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


def torch_file(content: object, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def other_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("notes.txt", "mine")
    return file.getvalue()


NO_WEIGHTS = {
    "captions.tsv": b"hello world",
    "dots.txt": b".....",
    "page.pth": b"<!DOCTYPE html><html>",
    "pointer.pth": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n",
    "photo.jpg": b"\xff\xd8\xff\xe0" + bytes(40),
    "empty.pth": b"",
    "cut.pth": torch_file(WEIGHTS)[:-100],
    "cut-old.pth": torch_file(WEIGHTS, zipped=False)[:-20],
    "other.zip": other_zip(),
    "text.safetensors": b"hello world",
    "empty.safetensors": b"",
}


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_what_is_no_weights_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(NO_WEIGHTS[name])
    with pytest.raises(CrossAlignError, match=r"not a weights file, or damaged: no \.safetensors") as caught:
        read_weights(tmp_path / name)
    told = str(caught.value)
    assert told.startswith(f"{tmp_path / name}: ")
    assert "\n" not in told
    assert len(told) < len(str(tmp_path / name)) + 120


@pytest.mark.parametrize("zipped", [True, False])
def test_other_things_than_tensors_are_not_unpickled(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "run.pth"
    path.write_bytes(torch_file({"model": WEIGHTS, "opt": argparse.Namespace(seed=1)}, zipped=zipped))
    with pytest.raises(
        CrossAlignError, match=r"holds other things than tensors, .* save the state dict alone"
    ):
        read_weights(path)


def test_weights_that_are_no_numbers_are_named() -> None:
    network = nn.BatchNorm1d(3)
    network.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    require_finite(network, "file")
    for name, value in (("weight", torch.inf), ("bias", torch.nan), ("running_var", torch.inf)):
        wrong = copy.deepcopy(network)
        with torch.no_grad():
            getattr(wrong, name)[1] = value
        with pytest.raises(CrossAlignError, match=f"^file: holds weights that are not finite: {name};"):
            require_finite(wrong, "file")


@pytest.mark.parametrize("zipped", [True, False])
def test_named_tensors_are_read(tmp_path: Path, zipped: bool) -> None:
    (tmp_path / "a.pth").write_bytes(torch_file({"state_dict": WEIGHTS}, zipped=zipped))
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    for path in (tmp_path / "a.pth", tmp_path / "a.safetensors"):
        found = read_weights(path)
        assert found.keys() == WEIGHTS.keys()
        assert all(torch.equal(found[key], WEIGHTS[key]) for key in WEIGHTS)
