"""Published pickles are read as data, of every torch and of Python 2, and nothing in them is ever run."""

from __future__ import annotations

import argparse
import collections
import functools
import io
import os
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from crossalign.convert.admitted import Attributes
from crossalign.convert.unpickle import read_pickled
from crossalign.errors import CrossAlignError

FILES = Path(__file__).parent / "files"


def content() -> dict[str, Any]:
    """What published training scripts save, with tensors that share storages or are turned around."""
    numbers = torch.arange(12.0)
    state = collections.OrderedDict(
        weight=numbers.view(3, 4), bias=numbers[8:], turned=numbers.view(3, 4)[1:].T, none=torch.empty(0)
    )
    return {
        "epoch": 3,
        "model": [state, {"norm": nn.BatchNorm1d(2).state_dict(), "parameter": nn.Parameter(torch.ones(2))}],
        "best_rsum": np.float64(480.5),
        "opt": argparse.Namespace(use_abs=False, name="f30k_precomp", margin=0.2),
        "kinds": {1, 2},
        "raw": b"\x00\xff",
        "bfloat": torch.ones(2, dtype=torch.bfloat16),
    }


def save(value: Any, path: Path, kind: str) -> Path:
    if kind == "pickle":
        path.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=kind == "zip")
    return path


@pytest.mark.parametrize("kind", ["zip", "stream"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path, kind: str, protocol: int) -> None:
    saved = content()
    path = tmp_path / "model.pth.tar"
    torch.save(saved, path, pickle_protocol=protocol, _use_new_zipfile_serialization=kind == "zip")
    read = read_pickled(path)
    assert read.keys() == saved.keys()
    for name, tensor in saved["model"][0].items():
        assert torch.equal(read["model"][0][name], tensor), name
    for name, tensor in saved["model"][1]["norm"].items():
        assert torch.equal(read["model"][1]["norm"][name], tensor), name
    assert torch.equal(read["model"][1]["parameter"], torch.ones(2))
    assert read["bfloat"].dtype == torch.bfloat16
    assert type(read["opt"]) is Attributes
    assert read["opt"].values == vars(saved["opt"])
    assert type(read["best_rsum"]) is float
    for name in ("epoch", "best_rsum", "kinds", "raw"):
        assert read[name] == saved[name]


def test_a_checkpoint_of_python_2_is_read() -> None:
    """Written by Python 2.7.18 with torch 1.0.0 and NumPy 1.16.6, in the format of torch 0.4."""
    read = read_pickled(FILES / "python2.pth.tar")
    image, text = read["model"]
    assert torch.equal(image["fc.weight"], torch.arange(12.0).view(3, 4))
    assert torch.equal(image["fc.bias"], torch.arange(8.0, 12.0))
    assert torch.equal(image["turned"], torch.arange(12.0).view(3, 4)[1:].T)
    assert torch.equal(text["ids"], torch.tensor([1, -2, 3]))
    assert torch.equal(text["half"], torch.ones(2, dtype=torch.float16))
    assert text["count"].item() == 7
    assert text["none"].shape == (0,)
    assert text["café"].dtype == torch.float64
    assert read["opt"].values == {
        "data_name": "f30k_precomp", "use_abs": False, "margin": 0.2, "workers": 10, "big": 2**70, "note": "é"
    }  # fmt: skip
    assert read["best_rsum"] == 480.5
    assert np.array_equal(read["rows"], np.arange(6).reshape(2, 3))
    assert np.array_equal(read["columns"], np.arange(6.0).reshape(2, 3))
    assert read["kinds"] == {1, 2}


@pytest.mark.parametrize("name", ["python2_vocab.pkl", "python2_vocab_protocol0.pkl"])
def test_a_vocabulary_of_python_2_is_its_attributes(name: str) -> None:
    read = read_pickled(FILES / name)
    assert read.values["word2idx"]["t-shirt"] == 6
    assert read.values["word2idx"]["café"] == 7
    assert read.values["idx"] == 10


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_arrays_are_read(tmp_path: Path, protocol: int) -> None:
    saved = {
        "floats": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "words": np.array(["a", "dog"]),
        "flags": np.array([True, False]),
        "number": np.int16(-3),
        "nested": [(1, [2.5, None, True]), {"x": frozenset({1})}],
    }
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(saved, protocol))
    read = read_pickled(path)
    for name in ("floats", "columns", "words", "flags"):
        assert np.array_equal(read[name], saved[name]), name
        assert read[name].dtype == saved[name].dtype
    assert read["number"] == -3
    assert read["nested"] == saved["nested"]


# ---- hostile


class Call:
    """Pickled, it asks for a function to be called."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.what = function, arguments

    def __reduce__(self) -> Any:
        return self.what


class Network(nn.Module):
    """A class of somebody's own."""


MARK = "touched-by-a-pickle"
HOSTILE: dict[str, Callable[[], Any]] = {
    "posix.system": lambda: Call(os.system, f"touch {MARK}"),
    "builtins.eval": lambda: Call(eval, f"open({MARK!r}, 'w')"),
    "builtins.exec": lambda: Call(exec, f"open({MARK!r}, 'w')"),
    "builtins.getattr": lambda: Call(getattr, Call(__import__, "os"), "system"),
    "builtins.__import__": lambda: Call(__import__, "os"),
    "io.open": lambda: Call(open, MARK, "w"),
    "torch.serialization.load": lambda: Call(torch.load, MARK),
    "torch.hub.load": lambda: Call(torch.hub.load, "a/b", "c"),
    "numpy.load": lambda: Call(np.load, MARK),
    "functools.partial": lambda: Call(functools.partial, os.system, "true"),
    "torch.nn.modules.linear.Linear": lambda: nn.Linear(2, 2),
    f"{__name__}.Network": lambda: Network(),
    "collections.defaultdict": lambda: collections.defaultdict(list),
    "pathlib.PosixPath": lambda: Path("x"),
}


def refusal(path: Path) -> str:
    with pytest.raises(CrossAlignError) as raised:
        read_pickled(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", ["zip", "stream", "pickle"])
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("nested", [False, True])
def test_a_name_that_is_no_data_is_refused_and_never_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, nested: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    value = HOSTILE[name]()
    if nested:
        value = {
            "model": [{"weight": torch.ones(2) if kind != "pickle" else 1}],
            "opt": argparse.Namespace(x=[value]),
        }
    message = refusal(save(value, tmp_path / "model.pth", kind))
    # Protocol 2 tells the names of Python 2.
    assert f"refused, it asks for '{name}'" in message.replace("__builtin__.", "builtins.")
    assert not (tmp_path / MARK).exists()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "'os.system'"),
        (b"(S'true'\nios\nsystem\n.", "'os.system'"),
        (b"(cos\nsystem\nS'true'\no.", "'os.system'"),
        (b"(cargparse\nNamespace\no.", "opcode OBJ"),
        (b"(iargparse\nNamespace\n.", "'argparse.Namespace' in the form of old classes"),
        (b"\x80\x04\x8c\x02os\x8c\x09path.join\x93)R.", "'os.path.join'"),
        (b"\x80\x04\x8c\x02os\x8c\x09path\njoin\x93)R.", "'os.path join'"),
        (b"\x80\x04\x8c\x08builtins\x8c\x0fset.__class__.x\x93.", "'builtins.set.__class__.x'"),
        (b"cargparse\nNamespace\n)R.", "a call of something that is no function"),
        (b"cargparse\nNamespace\n)\x81)R.", "a call of something that is no function"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "an object that is more than its attributes"),
        (b"\x80\x02cargparse\nNamespace\n(I1\nt\x81.", "an object that is more than its attributes"),
        (b"cargparse\nNamespace\n(dS'a'\nI1\nsb.", "a change inside a type"),
        (b"ccollections\nOrderedDict\n(dS'make'\nI1\nsb.", "a change inside a Maker"),
        (b"(lp0\n(dS'append'\nI1\nsb.", "a change inside a list"),
        (b"cargparse\nNamespace\nI1\na.", "a change inside a type"),
        (b"cargparse\nNamespace\n(I1\ne.", "a change inside a type"),
        (b"ccollections\nOrderedDict\nS'a'\nI1\ns.", "a change inside a Maker"),
        (b"ccollections\nOrderedDict\n(S'a'\nI1\nu.", "a change inside a Maker"),
        (b"\x80\x04]\x94(K\x01\x90.", "a change inside a list"),
        (b"\x80\x02c__builtin__\nlist\nX\x01\x00\x00\x00a\x85R.", "a container of something that is none"),
        (b"ccopy_reg\n_reconstructor\n(cargparse\nNamespace\nc__builtin__\ndict\nNtR.", "more than its attributes"),
        (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "encoding 'rot13'"),
        (b"cnumpy\ndtype\n(S'O8'\ntR.", "type 'O8', which is neither numbers nor text"),
        (b"cnumpy\ndtype\n(S'V8'\ntR.", "type 'V8'"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"\x96\x09\x00\x00\x00\x00\x00\x00\x00.", "it ends early"),
        (b"\x96\xff\xff\xff\xff\xff\x00\x00\x00.", "damaged"),
        (b"Pmodule\n.", "opcode PERSID"),
        (b"(S'module'\ntQ.", "source code of a network"),
    ],
)  # fmt: skip
def test_a_pickle_made_by_hand_gets_nowhere(tmp_path: Path, raw: bytes, reason: str) -> None:
    path = tmp_path / "vocab.pkl"
    path.write_bytes(raw)
    assert reason in refusal(path)


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    path = save(np.array([{}, None], dtype=object), tmp_path / "x.pkl", "pickle")
    assert "array of type 'O8'" in refusal(path)


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def stream_of(pickled: bytes, keys: bytes = b"(lp0\nS'0'\na.", numbers: bytes = b"") -> bytes:
    """A file in the format before zip, with any content."""
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(head) + pickled + keys + numbers


def storage(numbers: int) -> bytes:
    return b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI%d\nNtQ" % numbers


FILLED = struct.pack("<q2f", 2, 1.0, 2.0)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (storage(2) + b"I0\n(I100000000000\nt(I0\nt", "larger than its storage"),
        (storage(2) + b"I1\n(I2\nt(I1\nt", "larger than its storage"),
        (storage(2) + b"I0\n(I2\nt(I-1\nt", "no shape"),
        (storage(2) + b"I-1\n(I2\nt(I1\nt", "no shape"),
        (storage(2) + b"I0\n(I2\nt(t", "no shape"),
        (storage(10**12) + b"I0\n(I2\nt(I1\nt", "more numbers than the file holds"),
        (storage(-1) + b"I0\n(I2\nt(I1\nt", "more numbers than the file holds"),
        (b"I7\nI0\n(I2\nt(I1\nt", "without storage"),
    ],
)
def test_a_tensor_is_no_larger_than_its_file(tmp_path: Path, arguments: bytes, reason: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(stream_of(REBUILD + b"(" + arguments + b"I00\nNtR.", numbers=FILLED))
    assert reason in refusal(path)


def test_a_tensor_is_neither_added_to_nor_made_a_list(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    tensor = REBUILD + b"(" + storage(2) + b"I0\n(I2\nt(I1\ntI00\nNtR"
    path.write_bytes(stream_of(b"\x80\x04" + tensor + b"(K\x01\x90.", numbers=FILLED))
    assert "a change inside a Tensor" in refusal(path)
    path.write_bytes(stream_of(b"c__builtin__\nlist\n(" + tensor + b"tR.", numbers=FILLED))
    assert "a container of something that is none" in refusal(path)


def test_a_file_that_copies_what_it_has_over_and_over_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    once = b"c__builtin__\nlist\n(g0\ntR0"
    path.write_bytes(b"(lp0\n" + 100 * b"I1\na" + once + b".")
    assert len(read_pickled(path)) == 100
    path.write_bytes(b"(lp0\n" + 100 * b"I1\na" + 100 * once + b".")
    assert "more copies than the file is long" in refusal(path)


@pytest.mark.parametrize(
    ("part", "found"), [(b"I1\nI2\n", [2.0]), (b"I0\nI3\n", [1.0]), (b"I2\nI-1\n", None)]
)
def test_a_part_of_a_storage_begins_where_it_begins(
    tmp_path: Path, part: bytes, found: list[float] | None
) -> None:
    path = tmp_path / "model.pth"
    whole = storage(3).removesuffix(b"NtQ") + b"(S'part'\n" + part + b"ttQ"
    numbers = struct.pack("<q3f", 3, 0.0, 1.0, 2.0)
    path.write_bytes(stream_of(REBUILD + b"(" + whole + b"I1\n(I1\nt(I1\ntI00\nNtR.", numbers=numbers))
    if found is None:
        assert "a part of a storage that it does not have" in refusal(path)
    else:
        assert read_pickled(path).tolist() == found


def test_such_a_stream_made_by_hand_is_read_where_it_is_honest(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(stream_of(REBUILD + b"(" + storage(2) + b"I0\n(I2\nt(I1\ntI00\nNtR.", numbers=FILLED))
    assert read_pickled(path).tolist() == [1.0, 2.0]
    path.write_bytes(stream_of(b"I1\n.", keys=b"(lp0\nS'5'\na.", numbers=FILLED))
    assert "not that of its tensors" in refusal(path)


def test_a_large_memo_index_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02]r\xfe\xff\xff\xff.")
    assert read_pickled(path) == []


# ---- damaged


@pytest.mark.parametrize("kind", ["zip", "stream", "pickle"])
def test_a_file_that_ends_early_is_told(tmp_path: Path, kind: str) -> None:
    value = content() if kind != "pickle" else {"words": ["a"] * 9, "numbers": np.arange(40)}
    whole = save(value, tmp_path / "whole", kind).read_bytes()
    path = tmp_path / "part.pth"
    for length in [0, 2, 10, *range(20, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert "damaged, or no file of torch.save or pickle" in refusal(path), length


@pytest.mark.parametrize("kind", ["zip", "stream", "pickle"])
def test_damaged_bytes_end_in_one_line_or_in_other_data(tmp_path: Path, kind: str) -> None:
    value = content() if kind != "pickle" else {"words": ["a"] * 9, "numbers": np.arange(40)}
    whole = save(value, tmp_path / "whole", kind).read_bytes()
    draw = random.Random(0)
    path = tmp_path / "damaged.pth"
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(whole))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_pickled(path)
        except CrossAlignError:
            refused += 1
    assert refused > 40


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "the file is empty"),
        (b".", "its bytes do not make sense"),
        (b"0", "its bytes do not make sense"),
        (b"hello", "its bytes do not make sense"),
        (b"\x80\x02K\x01R.", "its bytes do not make sense"),
        (b"PK", "a zip file of which a part is missing or was changed"),
        (b"\x80\x02]", "it ends early"),
        (b"<!DOCTYPE html>", "byte 0x3c stands where none may stand"),
    ],
)
def test_a_reason_speaks_of_the_file_and_not_of_its_reader(tmp_path: Path, raw: bytes, reason: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(raw)
    assert refusal(path).endswith(f"no file of torch.save or pickle ({reason}); fetch it again")


def test_files_of_another_kind_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    assert "no such file" in refusal(path)
    assert "a folder" in refusal(tmp_path)
    path.write_bytes(b"\xff\xd8\xff\xe0 a photo")
    assert "damaged, or no file of torch.save" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert "a zip file, but not of torch.save" in refusal(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps(1))
    assert "compressed" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(1))
        archive.writestr("a/byteorder", "big")
    assert "byte order" in refusal(path)
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo("pickle")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"abc"))
    assert "tar format" in refusal(path)
