"""ECCV Caption and CxC are the package's own numbers, on random and on perfect rankings of its ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from crossalign.data.collection import Split
from crossalign.errors import CrossAlignError
from crossalign.evaluation.relevance import products_in_blocks
from crossalign.suite.eccv import coco_test_ids, eccv_metrics, known_matches
from crossalign.suite.needs import LeftOutError
from crossalign.suite.parts import eccv_part
from crossalign.suite.spaces import EncodedPart

eccv_caption = pytest.importorskip("eccv_caption")

NAMES = ("eccv_r1", "eccv_map_at_r", "eccv_rprecision", "cxc_recalls")


@pytest.fixture(scope="module")
def package() -> Any:
    return eccv_caption.Metrics()


@pytest.fixture(scope="module")
def ids() -> tuple[np.ndarray, np.ndarray]:
    """Images and captions in an order that is not the package's."""
    random = np.random.default_rng(0)
    images, captions = coco_test_ids()
    return random.permutation(sorted(images)), random.permutation(sorted(captions))


def own_names(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """The package's names and shares as ours."""
    result = {}
    for name, ways in scores.items():
        group, _, metric = name.partition("_")
        for way, value in ways.items():
            result[f"{group}_{way}_{metric.replace('rprecision', 'r_precision')}"] = 100 * value
    return result


def best_of(block: torch.Tensor, best: int) -> np.ndarray:
    return block.topk(best, dim=1).indices.numpy()


def ranked(scores: Any, asked: np.ndarray, there: np.ndarray, best: int) -> dict[int, list[int]]:
    found = {}
    for start in range(0, len(asked), 500):
        block = scores(slice(start, start + 500)).double()
        order = best_of(block, best)
        found |= {
            int(item): there[row].tolist()
            for item, row in zip(asked[start : start + 500], order, strict=True)
        }
    return found


def test_random_embeddings(package: Any, ids: tuple[np.ndarray, np.ndarray]) -> None:
    images, captions = ids
    random = np.random.default_rng(1)
    own = dict(zip(images.tolist(), random.normal(size=(len(images), 16)), strict=True))
    # Half noise: so that the numbers are neither all zero nor all perfect.
    owner = {caption: image for image, known in known_matches()["coco"].i2t.items() for caption in known}
    image = torch.from_numpy(np.stack([own[item] for item in images.tolist()]))
    text = torch.from_numpy(
        np.stack([own[owner[item]] for item in captions.tolist()]) + random.normal(size=(len(captions), 16))
    )
    i2t, t2i = products_in_blocks(image, text), products_in_blocks(text, image)
    ours = eccv_metrics(i2t, t2i, images.tolist(), captions.tolist())
    theirs = own_names(
        package.compute_all_metrics(
            ranked(i2t, images, captions, 60), ranked(t2i, captions, images, 60), NAMES, verbose=False
        )
    )
    assert set(ours) == set(theirs)
    assert len(ours) == 12
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name
        assert 0.1 < value < 99


@pytest.mark.parametrize("name", ["eccv", "cxc"])
@pytest.mark.long
def test_perfect_rankings(name: str, package: Any, ids: tuple[np.ndarray, np.ndarray]) -> None:
    """All that is relevant first. Two captions that ECCV Caption names are in no gallery, so not all is 100."""
    images, captions = ids
    matches = known_matches()[name]
    rankings, scores = {}, {}
    for way, asked, there in (("i2t", images, captions), ("t2i", captions, images)):
        place = {item: number for number, item in enumerate(there.tolist())}
        relevant = [
            [place[x] for x in getattr(matches, way).get(item, ()) if x in place] for item in asked.tolist()
        ]

        def rows(part: slice, relevant: list[list[int]] = relevant, size: int = len(there)) -> torch.Tensor:
            chosen = relevant[part]
            block = torch.zeros(len(chosen), size)
            for row, items in zip(block, chosen, strict=True):
                row[items] = 1.0
            return block

        scores[way] = rows
        rankings[way] = ranked(rows, asked, there, 60)
    ours = eccv_metrics(scores["i2t"], scores["t2i"], images.tolist(), captions.tolist())
    theirs = own_names(package.compute_all_metrics(rankings["i2t"], rankings["t2i"], NAMES, verbose=False))
    perfect = [value for key, value in ours.items() if key.startswith(name)]
    assert min(perfect) > 99.9
    for key in ours:
        if key.startswith(name):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-9), key


class AnyModel:
    """What the part of the suite asks of a model that is encoded already."""

    model = object()


def part_of(images: list[str], captions: list[str]) -> Any:
    split = Split(
        "test", tuple(images), tuple(captions), ("",) * len(captions), np.zeros(len(captions), np.int64)
    )
    constant = EncodedPart(torch.ones(len(images), 3, 2), torch.ones(len(captions), 2), None, None)
    return eccv_part(AnyModel(), split, constant, False)  # type: ignore[arg-type]


def test_the_part_of_the_suite_counts_ties_against_the_model(ids: tuple[np.ndarray, np.ndarray]) -> None:
    images, captions = ([str(item) for item in given] for given in ids)
    measured = part_of(images, captions)
    assert len(measured.metrics) == 12
    assert set(measured.metrics.values()) == {0.0}
    assert [row[0] for row in measured.rows] == [
        "ECCV Caption mAP@R",
        "ECCV Caption R-Precision",
        "ECCV Caption R@1",
        "CxC R@1",
        "CxC R@5",
        "CxC R@10",
    ]


def test_the_part_of_the_suite_is_left_out_elsewhere(ids: tuple[np.ndarray, np.ndarray]) -> None:
    images, captions = ([str(item) for item in given] for given in ids)
    with pytest.raises(LeftOutError, match=r"is not COCO's test split with COCO's numbers \(4,999 images\)"):
        part_of(images[1:], captions)
    with pytest.raises(LeftOutError, match="has 4,999 of the 5,000 images of COCO's test split"):
        part_of(["1", *images[1:]], captions)
    with pytest.raises(LeftOutError, match="has 24,998 of the 25,000 captions"):
        part_of(images, captions[2:])


def test_another_gallery_is_refused(ids: tuple[np.ndarray, np.ndarray]) -> None:
    images, captions = ids
    with pytest.raises(
        CrossAlignError, match="needs the 5,000 images of COCO's test split, no others; found 4,999"
    ):
        eccv_metrics(
            lambda part: torch.zeros(1), lambda part: torch.zeros(1), images[1:].tolist(), captions.tolist()
        )
