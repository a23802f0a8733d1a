"""Recall and rank metrics: cases worked out by hand, folds, the published figures, weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_retrieval import random_table

from crossalign.errors import CrossAlignError
from crossalign.evaluation import RankTable, ResultSubject, evaluate_retrieval, recall
from crossalign.evaluation.results import ids_digest

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "recall_0.npz"

# Scores of 8 captions (rows) with 4 images (columns): against unit vectors, a caption is its scores.
SCORES = np.array(
    [
        [9, 1, 2, 3],  # of image 0: rank 1
        [4, 5, 4, 0],  # of image 0: beaten by 1, ties with 2, rank 3
        [0, 0, 0, 0],  # of image 0: ties with all, rank 4
        [6, 7, 7, 1],  # of image 1: ties with 2, rank 2
        [9, 8, 3, 2],  # of image 2: rank 3
        [1, 2, 5, 4],  # of image 2: rank 1
        [2, 3, 1, 8],  # of image 3: rank 1
        [5, 6, 0, 7],  # of image 3: rank 1
    ],
    dtype=np.float32,
)
OWNER = [0, 0, 0, 1, 2, 2, 3, 3]
# Image 0 has 9 and a caption of 2 ties; 1 has 7, beaten by an 8; 2 has 5, beaten by a 7; 3 is first.
I2T = [2, 2, 2, 1]
EXPECTED = {
    "i2t_r1": 25.0,
    "i2t_r2": 100.0,
    "i2t_r3": 100.0,
    "t2i_r1": 50.0,
    "t2i_r2": 62.5,
    "t2i_r3": 87.5,
    "i2t_medr": 2.0,
    "t2i_medr": 1.5,
    "i2t_meanr": 1.75,
    "t2i_meanr": 2.0,
    "rsum": 425.0,
}


def test_worked_case() -> None:
    assert recall(np.eye(4, dtype=np.float32), SCORES, OWNER, ks=(1, 2, 3)) == EXPECTED
    assert recall(torch.eye(4).half(), torch.from_numpy(SCORES).half(), OWNER, ks=(1, 2, 3)) == EXPECTED


def test_worked_case_in_two_folds() -> None:
    # In the first fold the captions rank 1, 2, 2, 1, in the second 1, 1, 1, 1; all images rank 1.
    assert recall(np.eye(4, dtype=np.float32), SCORES, OWNER, ks=(1, 2), folds=2) == {
        "i2t_r1": 100.0,
        "i2t_r2": 100.0,
        "t2i_r1": 75.0,
        "t2i_r2": 100.0,
        "i2t_medr": 1.0,
        "t2i_medr": 1.25,
        "i2t_meanr": 1.0,
        "t2i_meanr": 1.25,
        "rsum": 375.0,
    }


def test_views_count_by_the_best() -> None:
    images = np.zeros((2, 2, 2), np.float32)
    images[0] = [[1, 0], [0, 0.5]]
    images[1] = [[0, 0.25], [0, 1]]
    metrics = recall(images, np.array([[0, 1], [0.5, 0.75], [0, 1]], np.float32), [0, 0, 1], ks=(1,))
    # Caption scores with (image 0, image 1): (0.5, 1), (0.5, 0.75), (0.5, 1).
    assert metrics["t2i_r1"] == pytest.approx(100 / 3)
    # Image 0 has 0.5 and ties; image 1 has 1 and ties.
    assert metrics["i2t_r1"] == 0


def test_golden_recall() -> None:
    golden = np.load(GOLDEN, allow_pickle=False)
    published = json.loads(str(golden["__meta__"]))
    metrics = recall(golden["image"], golden["text"], np.repeat(np.arange(120), 5))
    for ours, theirs in (("i2t", "txt"), ("t2i", "img")):
        for k in (1, 5, 10):
            assert metrics[f"{ours}_r{k}"] == pytest.approx(published[f"{theirs}_r{k}"], abs=0.005)
    assert metrics["rsum"] == pytest.approx(6 * published["r_mean"], abs=0.03)


def test_folds_are_means_of_recalls_apart() -> None:
    random = np.random.default_rng(0)
    image = random.standard_normal((60, 8)).astype(np.float32)
    owner = np.repeat(np.arange(60), 1 + np.arange(60) % 3)
    text = image[owner] + random.standard_normal((len(owner), 8)).astype(np.float32)
    order = random.permutation(len(owner))
    folds = []
    for start in range(0, 60, 12):
        mine = (owner >= start) & (owner < start + 12)
        folds.append(recall(image[start : start + 12], text[mine], owner[mine] - start))
    for images, texts in ((image, text), (torch.from_numpy(image), torch.from_numpy(text))):
        mean = recall(images, texts[order], owner[order], folds=5)
        for name, value in mean.items():
            assert value == pytest.approx(np.mean([fold[name] for fold in folds])), name
    with pytest.raises(CrossAlignError, match="60 images do not divide into 7 folds"):
        recall(image, text, owner, folds=7)


def test_constant_embeddings_recall_nothing() -> None:
    metrics = recall(np.ones((50, 4), np.float32), np.ones((250, 4), np.float32), np.repeat(np.arange(50), 5))
    assert metrics["rsum"] == 0
    assert metrics["t2i_meanr"] == metrics["t2i_medr"] == 50
    assert metrics["i2t_meanr"] == metrics["i2t_medr"] == 246


@pytest.mark.parametrize("folds", [1, 3])
def test_contributions_sum_to_the_metrics(folds: int) -> None:
    table = random_table(1, folds=folds)
    metrics = table.metrics()
    sums = table.contributions().sum(axis=0)
    assert sums.tolist() == pytest.approx([metrics[name] for name in (*table.recall_names, "rsum")])


@pytest.mark.parametrize("folds", [1, 2])
def test_weights_equal_repeated_images(folds: int) -> None:
    random = np.random.default_rng(2)
    table = random_table(2, images=24, folds=folds, chance=0.1)
    size = 24 // folds
    weights = np.concatenate([random.multinomial(size, [1 / size] * size, 6) for _ in range(folds)], axis=1)
    weighted = table.weighted(weights)
    assert weighted[:, [*range(6), 10]].tolist() == table.weighted_recalls(weights).tolist()
    for row, weight in zip(weighted, weights, strict=True):
        i2t, t2i, owner = [], [], []
        for image in np.repeat(np.arange(24), weight):
            owner += [len(i2t)] * int((table.image_of_text == image).sum())
            i2t.append(table.i2t[image])
            t2i += table.t2i[table.image_of_text == image].tolist()
        repeated = RankTable(np.array(i2t), np.array(t2i), np.array(owner), folds).metrics()
        assert row.tolist() == pytest.approx(list(repeated.values()))


def test_medians_are_numpy_medians() -> None:
    for images in (7, 8):
        table = random_table(3, images=images, chance=0.05)
        assert table.metrics()["i2t_medr"] == np.median(table.i2t)
        assert table.metrics()["t2i_medr"] == np.median(table.t2i)


def test_evaluation_keeps_ranks_and_names() -> None:
    result = evaluate_retrieval(
        np.eye(4, dtype=np.float32),
        SCORES,
        OWNER,
        ResultSubject(collection="tiny", split="test", image_digest=ids_digest("abcd")),
        ks=(1, 2, 3),
        resamples=20,
    )
    assert result.metrics == EXPECTED
    assert result.table.i2t.tolist() == I2T
    assert set(result.intervals) == set(EXPECTED)
    assert all(low <= high for low, high in result.intervals.values())
    assert (result.collection, result.split, result.protocol) == ("tiny", "test", "full")
    assert result.image_digest == ids_digest(list("abcd")) != ids_digest(list("abdc"))
    assert result.caption_digest is None


def test_unusable_cut_offs_are_refused() -> None:
    for ks in ((), (0, 1), (1, 1)):
        with pytest.raises(CrossAlignError, match="cut-offs"):
            recall(np.eye(4, dtype=np.float32), SCORES, OWNER, ks=ks)
