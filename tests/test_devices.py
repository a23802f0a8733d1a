"""Devices by name: which are taken, and the words for those that are not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from crossalign import RetrievalModel
from crossalign.devices import check_device, usable_device
from crossalign.errors import CrossAlignError
from crossalign.search import PhotoReranker, SearchEngine
from crossalign.search.manifest import MANIFEST_FILE, Manifest, write_manifest

NO_CUDA = "PyTorch finds no CUDA device here; use cpu"
UNKNOWN = "no device that can be used here; give auto, cpu, cuda or cuda:1"


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert usable_device("auto") == expected
    assert usable_device("cpu") == "cpu"
    check_device(torch.device("cpu"))


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize(
    ("name", "told"),
    [("cuda", NO_CUDA), ("cuda:1", NO_CUDA), ("banana", UNKNOWN), ("cuda:x", UNKNOWN), ("meta", UNKNOWN)]
    + [(name, UNKNOWN) for name in ("", "xpu", "cpu:x", "auto ")],
)
def test_what_is_not_there_is_refused_in_one_line(name: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match=f"^--device {name}: {re.escape(told)}$"):
        usable_device(name, "--device")
    write_manifest(
        tmp_path / MANIFEST_FILE,
        Manifest(
            model="somewhere",
            fingerprint="f",
            dim=4,
            views=1,
            photos="/p",
            store="store-0123abcd",
            created="2020-01-01",
        ),
    )
    said = f"^device {name}: {re.escape(told)}$"
    # Before a model is looked for, and without words about where it may be.
    with pytest.raises(CrossAlignError, match=said):
        SearchEngine.open(tmp_path, device=name)
    with pytest.raises(CrossAlignError, match=said):
        PhotoReranker.open("somewhere", name)
    with pytest.raises(CrossAlignError, match=said):
        RetrievalModel.from_pretrained("somewhere", name)


def test_a_number_beyond_the_last_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        CrossAlignError, match=r"^device cuda:2: the last CUDA device here is cuda:1; use that one$"
    ):
        check_device("cuda:2")
