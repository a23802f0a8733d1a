"""Ranks against plain loops: ties, near ties, blocks, types and settings that must have no influence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from plain_retrieval import plain_ranks

from crossalign.errors import CrossAlignError
from crossalign.evaluation import retrieval_ranks


def unit(random: np.random.Generator, *shape: int) -> np.ndarray:
    values = random.standard_normal(shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def embeddings(
    seed: int, images: int = 53, width: int = 33, views: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, texts near their images, and owners: one to four captions each, in shuffled order."""
    random = np.random.default_rng(seed)
    image = unit(random, images, *(() if views is None else (views,)), width)
    owner = random.permutation(np.repeat(np.arange(images), 1 + np.arange(images) % 4))
    near = image[owner] if views is None else image[owner, random.integers(0, views, len(owner))]
    return image, near + 0.25 * random.standard_normal((len(owner), width)).astype(np.float32), owner


def check(
    image: np.ndarray, text: np.ndarray, owner: np.ndarray, scores: np.ndarray, **settings: int
) -> None:
    i2t, t2i = plain_ranks(scores, owner)
    ranks = retrieval_ranks(image, text, owner, **settings)
    assert ranks.i2t.tolist() == i2t
    assert ranks.t2i.tolist() == t2i


def exact_scores(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Float64 scores, each computed alone in one order: equal embeddings give equal bits."""
    image, text = image.astype(np.float64), text.astype(np.float64)
    if image.ndim == 2:
        image = image[:, None]
    return np.array([[max((view * one).sum() for view in each) for one in text] for each in image])


@pytest.mark.parametrize("block", [1, 7, 64, 100, 2048])
@pytest.mark.parametrize("views", [None, 1, 3])
def test_equals_plain_loops_in_any_blocks(block: int, views: int | None) -> None:
    image, text, owner = embeddings(0, views=views)
    check(image, text, owner, exact_scores(image, text), block=block)


def test_blocks_and_threads_have_no_influence_on_many_tiles() -> None:
    image, text, owner = embeddings(1, images=700, width=40)
    whole = retrieval_ranks(image, text, owner, block=4096, threads=1)
    for block, threads in ((333, 1), (500, 3), (4096, 4)):
        part = retrieval_ranks(image, text, owner, block=block, threads=threads)
        assert np.array_equal(part.i2t, whole.i2t)
        assert np.array_equal(part.t2i, whole.t2i)
    assert len(set(whole.t2i.tolist())) > 5  # not a trivial case


@pytest.mark.parametrize(("images", "width", "block"), [(61, 97, 2048), (301, 97, 50), (130, 1031, 33)])
def test_duplicates_tie_wherever_their_block_is(images: int, width: int, block: int) -> None:
    random = np.random.default_rng(2)
    kinds, text_kinds = random.integers(0, 5, images), random.integers(0, 7, 3 * images + 1)
    owner = np.concatenate([np.repeat(np.arange(images), 3), [0]])
    few, few_texts = unit(random, 5, width), unit(random, 7, width)
    table = exact_scores(few, few_texts)
    check(few[kinds], few_texts[text_kinds], owner, table[np.ix_(kinds, text_kinds)], block=block)


@pytest.mark.parametrize("block", [90, 2048])
def test_few_ties_and_near_ties_among_many_clear_scores(block: int) -> None:
    random = np.random.default_rng(13)
    image, owner = unit(random, 400, 48), np.repeat(np.arange(400), 2)
    image[::50] = image[7]  # equal images, in several tiles and blocks
    image[25::50] = image[8]
    image[25::50, 0] *= 1 + np.arange(8, dtype=np.float32) * 2.0**-22  # almost equal ones
    text = image[owner] + 0.2 * random.standard_normal((800, 48)).astype(np.float32)
    text[3::97] = text[10] = 3 * image[5]  # the best captions of an image, and of others too
    text[0::100] = text[20] = 3 * image[10]
    scores = exact_scores(image, text)
    close = np.abs(scores - scores[owner, np.arange(800)]) < 1e-6
    assert 800 < close.sum() < scores.size / 64
    check(image, text, owner, scores, block=block)


@pytest.mark.parametrize("value", [0.0, 1 / 3, -0.7])
@pytest.mark.parametrize("width", [3, 1000, 20_000])
def test_constant_embedding_is_ranked_last(value: float, width: int) -> None:
    image, text = np.full((40, width), value, np.float32), np.full((80, width), value, np.float32)
    ranks = retrieval_ranks(image, text, np.repeat(np.arange(40), 2), block=16)
    assert ranks.t2i.tolist() == [40] * 80
    assert ranks.i2t.tolist() == [79] * 40  # its own two captions never hurt each other


@pytest.mark.parametrize(("items", "width", "block"), [(150, 777, 47), (1500, 9, 4096)])
def test_random_constant_row_is_ranked_last_in_odd_blocks(items: int, width: int, block: int) -> None:
    rows = np.tile(unit(np.random.default_rng(3), width), (items, 1))
    ranks = retrieval_ranks(rows, rows, np.arange(items), block=block)
    assert ranks.t2i.tolist() == ranks.i2t.tolist() == [items] * items


@pytest.mark.parametrize("width", [8, 1024])
def test_scores_one_float32_step_apart_are_told_apart(width: int) -> None:
    random = np.random.default_rng(4)
    image = np.tile(unit(random, width), (60, 1))
    image[:, 0] = np.float32(0.5) + np.arange(60, dtype=np.float32) * np.float32(2.0**-24)
    text = np.tile(unit(random, width), (60, 1))
    text[:, 0] = 1e-3
    ranks = retrieval_ranks(image, text, np.arange(60))
    assert ranks.t2i.tolist() == list(range(60, 0, -1))
    assert ranks.i2t.tolist() == [60] * 60  # all texts are equal


def test_collapsed_embeddings_are_ranked_exactly() -> None:
    random = np.random.default_rng(5)
    base = unit(random, 64)
    image = base + 1e-6 * random.standard_normal((50, 64)).astype(np.float32)
    text = base + 1e-6 * random.standard_normal((50, 64)).astype(np.float32)
    assert np.ptp(image @ text.T) < 1e-5
    check(image, text, np.arange(50), exact_scores(image, text), block=20)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_types_of_numbers(dtype: type) -> None:
    image, text, owner = embeddings(6)
    image, text = image.astype(dtype), text.astype(dtype)
    check(image, text, owner, exact_scores(image, text), block=30)


def test_torch_types() -> None:
    image, text, owner = embeddings(7)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        images = torch.from_numpy(image).to(dtype).requires_grad_()
        texts = torch.from_numpy(text).to(dtype)
        scores = exact_scores(images.detach().double().numpy(), texts.double().numpy())
        i2t, t2i = plain_ranks(scores, owner)
        ranks = retrieval_ranks(images, texts, torch.from_numpy(owner))
        assert (ranks.i2t.tolist(), ranks.t2i.tolist()) == (i2t, t2i)


def test_float64_values_beyond_float32_are_told_apart() -> None:
    image = np.ones((20, 4))
    image[:, 1] += np.arange(20) * 1e-12
    ranks = retrieval_ranks(image, np.ones((20, 4)), np.arange(20))
    assert ranks.t2i.tolist() == list(range(20, 0, -1))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e15])
def test_scale_has_no_influence(scale: float) -> None:
    image, text, owner = embeddings(8)
    expected = retrieval_ranks(image, text, owner)
    # Powers of two keep every bit of the values.
    factor = np.float32(2.0 ** np.round(np.log2(scale)))
    ranks = retrieval_ranks(image * factor, text * factor, owner)
    assert np.array_equal(ranks.t2i, expected.t2i)
    assert np.array_equal(ranks.i2t, expected.i2t)


def test_order_of_captions_has_no_influence() -> None:
    image, text, owner = embeddings(9)
    order = np.argsort(owner, kind="stable")
    mixed, sorted_ = retrieval_ranks(image, text, owner), retrieval_ranks(image, text[order], owner[order])
    assert np.array_equal(mixed.i2t, sorted_.i2t)
    assert np.array_equal(mixed.t2i[order], sorted_.t2i)


def test_reduced_precision_settings_have_no_influence_and_stay() -> None:
    image, text, owner = embeddings(10, images=400, width=256)
    expected = retrieval_ranks(image, text, owner)
    before = torch.get_float32_matmul_precision()
    enabled = torch.backends.mkldnn.enabled
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            ranks = retrieval_ranks(image, text, owner)
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.backends.mkldnn.enabled == enabled
    assert np.array_equal(ranks.t2i, expected.t2i)
    assert np.array_equal(ranks.i2t, expected.i2t)


@pytest.mark.filterwarnings("error")
def test_memory_map_is_read_without_warning(tmp_path: Path) -> None:
    image, text, owner = embeddings(11)
    np.save(tmp_path / "image.npy", image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    ranks = retrieval_ranks(mapped, text, owner)
    assert np.array_equal(ranks.t2i, retrieval_ranks(image, text, owner).t2i)


@pytest.mark.filterwarnings("error")
def test_refusals() -> None:
    image, text, owner = embeddings(12)
    damaged = text.copy()
    damaged[[4, 9]] = np.nan
    infinite = image.copy()
    infinite[3, 0] = np.inf
    cases = {
        f"text embeddings: 2 of {len(text)} rows hold NaN or infinite values (the first is row 4)": (
            (image, damaged, owner)
        ),
        "image embeddings: 1 of 53 rows hold NaN or infinite values (the first is row 3)": (
            infinite,
            text,
            owner,
        ),
        "too large": (image * 1e19, text * 1e19, owner),
        "are too large for float32": (image * 1e30, text, owner),
        "of the same width": (image[:, :5], text, owner),
        "found (0, 33)": (image[:0], text, owner),
        "found (33,)": (image[0], text, owner),
        "floating point numbers, found int64": (image.astype(np.int64), text, owner),
        f"one whole number for each of the {len(text)} texts": (image, text, owner[1:]),
        "found float64 of shape": (image, text, owner.astype(np.float64)),
        "must lie in 0..52, found 0..53": (image, text, np.where(owner == 7, 53, owner)),
        "1 of 53 images have no caption (the first is image 7)": (
            image,
            text,
            np.where(owner == 7, 8, owner),
        ),
    }
    for message, arguments in cases.items():
        with pytest.raises(CrossAlignError) as caught:
            retrieval_ranks(*arguments)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(CrossAlignError, match="block must be from 1"):
        retrieval_ranks(image, text, owner, block=0)
