"""Results on disk: read back whole, damage refused in one line, killed writers leave no half result."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from plain_retrieval import random_table, result_of

from crossalign.errors import CrossAlignError
from crossalign.evaluation import RetrievalResult
from crossalign.evaluation.results import ids_digest, write_ranks
from crossalign.files import file_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    result_of(random_table(0, folds=2), image_digest=ids_digest(["a", "b"])).save(tmp_path / "run")
    return tmp_path / "run"


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    document = json.loads((folder / "results.json").read_text())
    change(document)
    (folder / "results.json").write_text(json.dumps(document))


def refused(folder: Path) -> str:
    with pytest.raises(CrossAlignError) as caught:
        RetrievalResult.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_reads_back_what_was_written(folder: Path) -> None:
    written = result_of(random_table(0, folds=2), image_digest=ids_digest(["a", "b"]))
    for path in (folder, folder / "results.json", str(folder)):
        read = RetrievalResult.load(path)
        assert read.to_dict() == written.to_dict()
        assert read.source == str(path)
        for name in ("i2t", "t2i", "image_of_text"):
            assert np.array_equal(getattr(read.table, name), getattr(written.table, name))
    assert sorted(path.name for path in folder.iterdir()) == ["ranks.npz", "results.json"]
    assert read.protocol == "mean of 2 folds"


def test_overwrites_only_when_allowed(folder: Path) -> None:
    other = result_of(random_table(1))
    with pytest.raises(CrossAlignError, match="already exists"):
        other.save(folder)
    other.save(folder, overwrite=True)
    assert RetrievalResult.load(folder).metrics == other.metrics


def test_foreign_and_missing_files_are_refused(folder: Path, tmp_path: Path) -> None:
    assert "holds no results.json" in refused(tmp_path / "nowhere")
    edit(folder, lambda document: document.update(format_version=2))
    assert "format version 2, this crossalign reads 1" in refused(folder)
    edit(folder, lambda document: document.update(format="another"))
    assert "not a retrieval result" in refused(folder)
    (folder / "results.json").write_text("[1, 2]")
    assert "not a retrieval result" in refused(folder)
    (folder / "results.json").write_text('{"format": ')
    assert refused(folder).endswith("results.json: not valid JSON (line 1: Expecting value); evaluate again")


def test_damaged_documents_are_refused(folder: Path) -> None:
    whole = (folder / "results.json").read_text()
    for change, message in (
        (lambda document: document.pop("split"), "damaged at 'split'"),
        (
            lambda document: document.update(counts={"images": "many", "captions": 3}),
            "damaged at 'counts.images'",
        ),
        (lambda document: document.update(extra=1), "damaged at 'extra'"),
        (lambda document: document["counts"].update(images=29), "does not fit"),
        (lambda document: document["metrics"].update(rsum=599.0), "does not fit"),
        (lambda document: document["metrics"].pop("rsum"), "does not fit"),
        (lambda document: document["intervals"].pop("rsum"), "does not fit"),
        (lambda document: document["protocol"].update(folds=7), "does not fit"),
    ):
        (folder / "results.json").write_text(whole)
        edit(folder, change)
        assert message in refused(folder)


def test_damaged_ranks_are_refused(folder: Path) -> None:
    ranks = folder / "ranks.npz"
    whole = ranks.read_bytes()
    for damaged in (whole[:-7], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], b""):
        ranks.write_bytes(damaged)
        assert "ranks.npz: damaged, its checksum" in refused(folder)
    ranks.unlink()
    assert "ranks.npz: no such file" in refused(folder)


@pytest.mark.parametrize("content", ["pickle", "text", "missing", "fractions"])
def test_ranks_of_another_making_are_refused(folder: Path, content: str) -> None:
    ranks, table = folder / "ranks.npz", random_table(0)
    if content == "text":
        ranks.write_text("no archive")
    else:
        objects = np.array([{"a": 1}] * 30, dtype=object)
        i2t = {"pickle": objects, "fractions": table.i2t + 0.5}.get(content, table.i2t)
        arrays = {"i2t": i2t, "t2i": table.t2i}
        np.savez(ranks, **arrays, **({} if content == "missing" else {"image_of_text": table.image_of_text}))
    edit(folder, lambda document: document["ranks"].update(sha256=file_digest(ranks)))
    assert "does not fit" in refused(folder)


def test_compressed_ranks_are_small_and_the_same(folder: Path) -> None:
    written = RetrievalResult.load(folder)
    checksum = write_ranks(folder / "other.npz", written.table, compressed=True)
    assert (folder / "other.npz").stat().st_size < (folder / "ranks.npz").stat().st_size / 2
    content = json.loads((folder / "results.json").read_text())
    content["ranks"]["sha256"] = checksum
    read = RetrievalResult.from_document(content, "a/record.json", folder / "other.npz", source="mine")
    assert read.to_dict() == written.to_dict()
    assert read.source == "mine"
    for name in ("i2t", "t2i", "image_of_text"):
        assert np.array_equal(getattr(read.table, name), getattr(written.table, name))
    content["counts"]["images"] += 1
    with pytest.raises(CrossAlignError, match=r"other\.npz: does not fit record\.json beside it"):
        RetrievalResult.from_document(content, "a/record.json", folder / "other.npz")


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from plain_retrieval import random_table, result_of
results = [result_of(random_table(seed, images=400)) for seed in (0, 1)]
print("ready", flush=True)
while True:
    for result in results:
        result.save(sys.argv[1], overwrite=True)
"""


def test_killed_writer_leaves_a_whole_result_or_none(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    whole = {result_of(random_table(seed, images=400)).metrics["rsum"] for seed in (0, 1)}
    for moment in (0.0, 0.003, 0.011, 0.023, 0.05):
        arguments = [sys.executable, "-c", WRITER, str(folder), str(Path(__file__).parent)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
        if (folder / "results.json").exists():
            assert RetrievalResult.load(folder).metrics["rsum"] in whole
        else:
            assert "holds no results.json" in refused(folder)
    result_of(random_table(0, images=400)).save(folder, overwrite=True)
    assert RetrievalResult.load(folder).metrics["rsum"] in whole
