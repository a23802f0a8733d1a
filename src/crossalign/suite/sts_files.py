"""The files of STS12-16, STS Benchmark and SICK-R, in the folders that their organisers and SentEval use."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crossalign.errors import CrossAlignError
from crossalign.suite.text_files import finite

__all__ = ["STS_SETS", "SentencePairs", "read_sts"]

STS_SETS = ("STS12", "STS13", "STS14", "STS15", "STS16", "STS-B", "SICK-R")
"""In the order of the field's tables."""


@dataclass(frozen=True)
class SentencePairs:
    """Pairs of sentences that people have judged.

    Attributes:
        name: of the subset, such as ``headlines``.
        first, second: the sentences.
        judgement: how alike they are, 0 to 5, or 1 to 5 for SICK.
    """

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    judgement: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.judgement)


def read_sts(folder: str | Path) -> dict[str, list[SentencePairs]]:
    """The test splits of the sets that a folder has, each with its subsets.

    Looked for are ``STS12-en-test`` to ``STS16-en-test`` with ``STS.input.NAME.txt`` and ``STS.gs.NAME.txt``,
    ``STSBenchmark/sts-test.csv`` and ``SICK/SICK_test_annotated.txt``. A subset without its sentences is not there
    (STS13's ``SMT`` is not free, and the field's figures are without it), and a pair without a judgement is left out.

    Raises:
        CrossAlignError: none of the sets is there, or a file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CrossAlignError(
            f"{folder}: no such folder; give that of the sentence pairs (STS12-en-test and so on)"
        )
    sets: dict[str, list[SentencePairs]] = {}
    for name in STS_SETS[:5]:
        place = folder / f"{name}-en-test"
        if place.is_dir():
            sets[name] = _subsets(place)
    benchmark, sick = folder / "STSBenchmark" / "sts-test.csv", folder / "SICK" / "SICK_test_annotated.txt"
    if benchmark.is_file():
        sets["STS-B"] = [_columns(benchmark, "test", (5, 6, 4), head=False)]
    if sick.is_file():
        sets["SICK-R"] = [_columns(sick, "test", (1, 2, 3), head=True)]
    if not sets:
        raise CrossAlignError(
            f"{folder}: no set of sentence pairs; it needs STS12-en-test to STS16-en-test, STSBenchmark or SICK"
        )
    return sets


def _subsets(place: Path) -> list[SentencePairs]:
    names = sorted(path.name.removeprefix("STS.input.") for path in place.glob("STS.input.*.txt"))
    if not names:
        raise CrossAlignError(f"{place}: no STS.input.NAME.txt; put the files of the set back")
    return [
        _judged(place / f"STS.input.{name}", place / f"STS.gs.{name}", name.removesuffix(".txt"))
        for name in names
    ]


def _judged(sentences: Path, judgements: Path, name: str) -> SentencePairs:
    told, pairs = _lines(judgements), _lines(sentences)
    if len(told) != len(pairs):
        raise CrossAlignError(
            f"{judgements}: {len(told)} judgements for {len(pairs)} lines of {sentences.name}; put both files back"
        )
    rows = []
    for number, (line, judgement) in enumerate(zip(pairs, told, strict=True), start=1):
        if not judgement.strip():
            continue
        fields = line.split("\t")
        if len(fields) < 2:
            raise CrossAlignError(f"{sentences}: line {number} has no two sentences with a tab between them")
        rows.append((fields[0], fields[1], _number(judgement, judgements, number)))
    return _pairs(name, rows, sentences)


def _columns(path: Path, name: str, columns: tuple[int, int, int], *, head: bool) -> SentencePairs:
    """Sentences and judgement in these columns of a file with tabs and without quoting."""
    rows = []
    reader = csv.reader(io.StringIO("\n".join(_lines(path))), delimiter="\t", quoting=csv.QUOTE_NONE)
    for number, fields in enumerate(reader, start=1):
        if (head and number == 1) or not fields:
            continue
        if len(fields) <= max(columns):
            raise CrossAlignError(
                f"{path}: line {number} has {len(fields)} columns, at least {max(columns) + 1} needed"
            )
        first, second, judgement = (fields[column] for column in columns)
        rows.append((first, second, _number(judgement, path, number)))
    return _pairs(name, rows, path)


def _pairs(name: str, rows: Sequence[tuple[str, str, float]], path: Path) -> SentencePairs:
    if len(rows) < 2:
        raise CrossAlignError(f"{path}: {len(rows)} judged pairs; put the whole file back")
    first, second, judgement = zip(*rows, strict=True)
    return SentencePairs(name, first, second, judgement)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise CrossAlignError(f"{path}: no such file; put it back beside the others") from None
    except UnicodeDecodeError as error:
        raise CrossAlignError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    # Only real line ends: some sentences hold other characters at which splitlines() would break.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _number(text: str, path: Path, line: int) -> float:
    value = finite(text)
    if value is None:
        raise CrossAlignError(
            f"{path}: line {line}: '{text.strip()[:40]}' is no judgement; put the file back"
        )
    return value
