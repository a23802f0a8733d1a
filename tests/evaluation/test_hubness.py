"""Hubness correction against plain loops: every method, both directions, views, folds, ties, scorers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from plain_retrieval import plain_ranks

from crossalign.errors import CrossAlignError
from crossalign.evaluation import hubness
from crossalign.evaluation.gallery import EmbeddingGallery, RerankedGallery, ScoredGallery, gallery_table
from crossalign.evaluation.hubness import CorrectedGallery, image_normalisers
from crossalign.scorers.blocks import PackedUnits

OWNER = np.repeat(np.arange(15), 1 + np.arange(15) % 3)


def hubby(seed: int, views: int | None = None, images: int = 15, texts: int = 30) -> EmbeddingGallery:
    """Related images and texts; some images are longer, and so come close to every text."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((images, 8))
    text = centres[np.resize(OWNER, texts) % images] + 1.5 * random.standard_normal((texts, 8)) + 0.8
    image = centres if views is None else centres[:, None] + 0.5 * random.standard_normal((images, views, 8))
    image = image + 0.8 * (np.arange(images).reshape(-1, *[1] * (image.ndim - 1)) % 4 == 0)
    scale = 0.15
    return EmbeddingGallery((scale * image).astype(np.float32), (scale * text).astype(np.float32))


def plain_scores(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    views = image.reshape(len(image), -1, image.shape[-1]).astype(float)
    scores = [
        [max(float(np.dot(v, t)) for v in views[i]) for t in text.astype(float)] for i in range(len(image))
    ]
    return np.array(scores)


def plain_correction(
    items_by_queries: np.ndarray, bank: np.ndarray | None, method: str, temperature: float
) -> np.ndarray:
    """Corrected scores, items in rows and queries in columns; the formulas of the papers, sums in loops."""
    items, queries = items_by_queries.shape
    probes = items_by_queries if bank is None else bank
    result = np.zeros((items, queries))
    hubs = {max(range(items), key=lambda g: probes[g, p]) for p in range(probes.shape[1])}
    for q in range(queries):
        best = max(range(items), key=lambda g: items_by_queries[g, q])
        for g in range(items):
            score = items_by_queries[g, q]
            share = math.exp(score / temperature) / sum(math.exp(p / temperature) for p in probes[g])
            if method == "dual-softmax":
                result[g, q] = score * share
            elif method == "dynamic-query-bank" and best not in hubs:
                result[g, q] = score
            else:
                result[g, q] = share
    return result


def plain_corrected_ranks(
    scores: np.ndarray,
    bank: tuple[np.ndarray, np.ndarray] | None,
    method: str,
    temperature: float,
    owner: Any,
) -> tuple[list[int], list[int]]:
    """``bank``: the gallery's images with the bank's texts, and the bank's images with the gallery's texts."""
    of_images = plain_correction(scores, None if bank is None else bank[0], method, temperature)
    of_texts = plain_correction(scores.T, None if bank is None else bank[1].T, method, temperature)
    return plain_ranks(of_texts.T, owner)[0], plain_ranks(of_images, owner)[1]


@pytest.mark.parametrize("method", hubness.METHODS)
@pytest.mark.parametrize("views", [None, 3])
@pytest.mark.parametrize("block", [2048, 4])
def test_ranks_agree_with_plain_loops(
    method: str, views: int | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubness, "_BLOCK", block)
    changed = 0
    for seed in range(4):
        gallery, other = hubby(seed, views), hubby(100 + seed, views, images=7, texts=5)
        image, text = np.asarray(gallery.image), np.asarray(gallery.text)
        bank = other if method in hubness.BANK_METHODS else None
        of_bank = None
        if bank is not None:
            of_bank = (
                plain_scores(image, np.asarray(other.text)),
                plain_scores(np.asarray(other.image), text),
            )
        for temperature in (0.02, 0.3):
            ranks = CorrectedGallery(gallery, method, temperature, bank).ranks(OWNER)
            scores = plain_scores(image, text)
            expected = plain_corrected_ranks(scores, of_bank, method, temperature, OWNER)
            assert (ranks.i2t.tolist(), ranks.t2i.tolist()) == expected
            changed += ranks.t2i.tolist() != gallery.ranks(OWNER).t2i.tolist()
    assert changed, "the correction must matter here"


def test_the_dynamic_correction_leaves_some_queries_alone() -> None:
    gallery, bank = hubby(1), hubby(2, images=3, texts=2)
    ranks = {
        method: CorrectedGallery(gallery, method, 0.05, bank).ranks(OWNER).t2i
        for method in hubness.BANK_METHODS
    }
    plain = gallery.ranks(OWNER).t2i
    dynamic = ranks["dynamic-query-bank"]
    assert (dynamic != plain).any()
    assert (dynamic != ranks["query-bank"]).any()


@pytest.mark.parametrize("method", hubness.METHODS)
def test_a_model_that_tells_nothing_apart_finds_nothing(method: str) -> None:
    for vector in (np.random.default_rng(0).standard_normal(37).astype(np.float32), np.zeros(37, np.float32)):
        gallery = EmbeddingGallery(np.tile(vector, (15, 1)), np.tile(vector / 3, (len(OWNER), 1)))
        bank = gallery if method in hubness.BANK_METHODS else None
        ranks = CorrectedGallery(gallery, method, 0.01, bank).ranks(OWNER)
        assert (ranks.t2i == 15).all()
        assert (ranks.i2t == 1 + len(OWNER) - np.bincount(OWNER)).all()


def test_a_twin_of_the_own_image_stands_before_it() -> None:
    random = np.random.default_rng(3)
    image = random.standard_normal((40, 64)).astype(np.float32)
    image[20:] = image[:20]
    text = (image + 0.01 * random.standard_normal(image.shape)).astype(np.float32)
    for method in ("dual-softmax", "inverted-softmax"):
        ranks = CorrectedGallery(EmbeddingGallery(image, text), method, 0.05).ranks(np.arange(40))
        assert (ranks.t2i == 2).all()


def test_no_factor_is_too_small_to_be_compared() -> None:
    """exp(-1000) is no float64: compared by their logarithms, such products still have their order."""
    scores = np.array([[1.0, 0.1, 0.3], [0.2, 0.9, 0.25], [0.3, 0.5, -0.4]])
    gallery = EmbeddingGallery(scores, np.eye(3))
    ranks = CorrectedGallery(gallery, "dual-softmax", 1e-4).ranks(np.arange(3))
    # Of text 2, images 0 and 1 have positive products, its own a negative one; images' captions alike.
    assert ranks.t2i.tolist() == [1, 1, 3]
    assert ranks.i2t.tolist() == [1, 1, 3]


def test_folds_are_corrected_apart_and_keep_the_bank() -> None:
    images = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    texts = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)
    whole, bank = EmbeddingGallery(images, texts), hubby(0)
    bank = EmbeddingGallery(np.asarray(bank.image)[:, :5], np.asarray(bank.text)[:, :5])
    for method in hubness.METHODS:
        given = bank if method in hubness.BANK_METHODS else None
        table = gallery_table(CorrectedGallery(whole, method, 0.5, given), np.arange(6), folds=2)
        for half in (slice(0, 3), slice(3, 6)):
            alone = CorrectedGallery(EmbeddingGallery(images[half], texts[half]), method, 0.5, given)
            ranks = alone.ranks(np.arange(3))
            assert table.t2i[half].tolist() == ranks.t2i.tolist()
            assert table.i2t[half].tolist() == ranks.i2t.tolist()


def scored(image: np.ndarray, text: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> ScoredGallery:
    def packed(rows: np.ndarray) -> PackedUnits:
        return PackedUnits(torch.from_numpy(rows), torch.ones(len(rows), dtype=torch.long))

    monkeypatch.setattr(
        hubness, "score_blocks", lambda scorer, images, texts, progress=False: images.units @ texts.units.T
    )
    return ScoredGallery(None, packed(image), packed(text))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", hubness.METHODS)
@pytest.mark.parametrize("block", [2048, 4])
def test_scored_pairs_are_corrected_alike(method: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubness, "_BLOCK", block)
    for seed in range(3):
        gallery, other = hubby(seed), hubby(50 + seed, images=6, texts=9)
        given = other if method in hubness.BANK_METHODS else None
        expected = CorrectedGallery(gallery, method, 0.1, given).ranks(OWNER)
        bank = None
        if given is not None:
            bank = scored(np.asarray(other.image), np.asarray(other.text), monkeypatch)
        pairs = scored(np.asarray(gallery.image), np.asarray(gallery.text), monkeypatch)
        ranks = CorrectedGallery(pairs, method, 0.1, bank).ranks(OWNER)
        assert ranks.t2i.tolist() == expected.t2i.tolist()
        assert ranks.i2t.tolist() == expected.i2t.tolist()


@pytest.mark.parametrize("views", [None, 2])
def test_normalisers_of_images(views: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubness, "_BLOCK", 6)
    gallery = hubby(5, views)
    image, text = np.asarray(gallery.image), np.asarray(gallery.text)
    scores = plain_scores(image, text)
    expected = [0.05 * math.log(sum(math.exp(s / 0.05) for s in row) / len(row)) for row in scores]
    found = image_normalisers(image.reshape(len(image), -1, 8), text, 0.05)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(image_normalisers(np.zeros((0, 1, 8), np.float32), text, 0.05)) == 0


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = hubby(0)
    pairs = scored(np.asarray(gallery.image), np.asarray(gallery.text), monkeypatch)
    empty = EmbeddingGallery(np.asarray(gallery.image)[:0], np.asarray(gallery.text))
    narrow = EmbeddingGallery(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
    for arguments, message in (
        ((gallery, "softmax"), "no such correction; give one of dual-softmax, inverted-softmax, query-bank"),
        ((gallery, "dual-softmax", 0.0), "the temperature is 0.0; give a positive number"),
        ((gallery, "dual-softmax", math.inf), "give a positive number"),
        ((gallery, "query-bank"), "needs a bank"),
        ((gallery, "inverted-softmax", 0.1, gallery), "takes no bank"),
        ((gallery, "query-bank", 0.1, empty), "bank of queries is empty"),
        ((RerankedGallery(gallery, pairs, 5), "dual-softmax"), "leave --rerank out"),
    ):
        with pytest.raises(CrossAlignError, match=message):
            CorrectedGallery(*arguments)  # type: ignore[arg-type]
    for bank in (narrow, pairs):
        with pytest.raises(CrossAlignError, match=r"of two models|from one model"):
            CorrectedGallery(gallery, "query-bank", 0.1, bank).ranks(OWNER)
    broken = EmbeddingGallery(np.full((15, 8), np.nan, np.float32), np.asarray(gallery.text))
    with pytest.raises(CrossAlignError, match="NaN"):
        CorrectedGallery(broken, "dual-softmax").ranks(OWNER)
