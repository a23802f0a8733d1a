"""Scoring whole collections in blocks: equal to all at once, in bounded memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crossalign.errors import CrossAlignError
from crossalign.scorers import (
    PackedUnits,
    SAFScorer,
    SCANScorer,
    Scorer,
    SGRAFScorer,
    SGRScorer,
    scan,
    score_blocks,
    score_pairs,
    similarity,
)

N, M, R, W, D, K = 11, 23, 7, 9, 16, 8
SCORERS: dict[str, Any] = {
    "t2i": lambda: SCANScorer("t2i"),
    "i2t": lambda: SCANScorer("i2t", aggregation="Mean"),
    "sgr": lambda: SGRScorer(D, K, regions=R),
    "saf": lambda: SAFScorer(D, K, regions=R),
    "sgraf": lambda: SGRAFScorer(D, K, regions=R),
}


def collection(count: int, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """Unit-norm units ``(count, most, D)`` and a mask with lengths in no order; the third item has none."""
    generator = torch.Generator().manual_seed(seed)
    units = F.normalize(torch.randn(count, most, D, generator=generator), dim=-1)
    lengths = torch.randint(1, most + 1, (count, 1), generator=generator)
    lengths[2] = 0
    return units, torch.arange(most) < lengths


REGIONS, REGION_MASK = collection(N, R, 1)
WORDS, WORD_MASK = collection(M, W, 2)


def make(kind: str) -> Scorer[Any]:
    torch.manual_seed(0)
    return SCORERS[kind]().eval()


def packed() -> tuple[PackedUnits, PackedUnits]:
    return PackedUnits.of(REGIONS, REGION_MASK), PackedUnits.of(WORDS, WORD_MASK)


def test_packed_units_keep_items_and_order() -> None:
    units = PackedUnits.of(WORDS, WORD_MASK)
    assert len(units) == M
    assert len(units.units) == WORD_MASK.sum()
    index = torch.tensor([5, 2, 2, 0, 22])
    padded, mask = units.padded(index)
    assert mask is not None
    assert torch.equal(mask.sum(dim=1), WORD_MASK[index].sum(dim=1))
    for row, keep, item in zip(padded, mask, index.tolist(), strict=True):
        assert torch.equal(row[keep], WORDS[item][WORD_MASK[item]])
    parts = [PackedUnits.of(WORDS[:4, :9], WORD_MASK[:4, :9]), PackedUnits.of(WORDS[4:], WORD_MASK[4:])]
    joined = PackedUnits.cat(parts)
    assert torch.equal(joined.units, units.units)
    assert torch.equal(joined.lengths, units.lengths)


def test_packed_units_without_padding_have_no_mask() -> None:
    units = PackedUnits.of(WORDS)
    padded, mask = units.padded(torch.tensor([3, 1]))
    assert mask is None
    assert torch.equal(padded, WORDS[[3, 1]])
    nothing = PackedUnits(torch.zeros(0, D), torch.zeros(2, dtype=torch.long))
    padded, mask = nothing.padded(torch.tensor([1]))
    assert padded.shape == (1, 1, D)
    assert mask is not None
    assert not mask.any()


@pytest.mark.parametrize("blocks", [(1, 1), (3, 4), (100, 100)])
@pytest.mark.parametrize("kind", SCORERS)
def test_blocks_equal_the_whole(kind: str, blocks: tuple[int, int]) -> None:
    scorer = make(kind)
    scores = score_blocks(scorer, *packed(), image_block=blocks[0], text_block=blocks[1])
    expected = scorer(REGIONS, WORDS, REGION_MASK, WORD_MASK).detach()
    assert not scores.requires_grad
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)
    assert expected.std() > 1e-3


@pytest.mark.parametrize("block", [1, 7, 100])
@pytest.mark.parametrize("kind", SCORERS)
def test_pairs_equal_the_whole(kind: str, block: int) -> None:
    scorer = make(kind)
    generator = torch.Generator().manual_seed(4)
    i, j = (torch.randint(0, count, (30,), generator=generator) for count in (N, M))
    scores = score_pairs(scorer, *packed(), i, j, block=block)
    expected = scorer(REGIONS, WORDS, REGION_MASK, WORD_MASK).detach()[i, j]
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", SCORERS)
@torch.no_grad()
def test_a_gallery_is_made_ready_once_for_single_texts(kind: str) -> None:
    scorer = make(kind)
    gallery = scorer.prepare_gallery(scorer.prepare_images(REGIONS, REGION_MASK))
    alone = [
        scorer.score(gallery, scorer.prepare_texts(WORDS[i : i + 1], WORD_MASK[i : i + 1])) for i in range(M)
    ]
    whole = scorer(REGIONS, WORDS, REGION_MASK, WORD_MASK)
    torch.testing.assert_close(torch.cat(alone, dim=1), whole, rtol=0, atol=1e-5)
    for part in gallery if isinstance(gallery, tuple) else (gallery,):
        assert part.with_gram() is part if part.gram is not None else part.with_reciprocals() is part


def test_evaluation_mode_inside_and_the_mode_before_outside() -> None:
    scorer = make("saf").train()
    state = {name: value.clone() for name, value in scorer.state_dict().items()}
    scores = score_blocks(scorer, *packed(), image_block=3)
    assert scorer.training
    assert all(torch.equal(value, state[name]) for name, value in scorer.state_dict().items())
    torch.testing.assert_close(scores, scorer.eval()(REGIONS, WORDS, REGION_MASK, WORD_MASK).detach())


def test_half_precision_units_are_scored_in_float32() -> None:
    images, texts = (PackedUnits(part.units.half(), part.lengths) for part in packed())
    scores = score_blocks(make("sgr"), images, texts, text_block=5)
    assert scores.dtype == torch.float32
    expected = score_blocks(make("sgr"), *packed())
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-3)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that an operation makes anew, the scores left out."""

    def __init__(self, scores: int) -> None:
        super().__init__()
        self.scores = scores
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        old = {tensor.untyped_storage().data_ptr() for tensor in args if isinstance(tensor, Tensor)}
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in old:
                if func is torch.ops.aten.empty.memory_format and tensor.numel() == self.scores:
                    continue
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("kind", SCORERS)
def test_memory_does_not_grow_with_the_collections(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_ELEMENTS", {True: 4000})
    monkeypatch.setattr(similarity, "_ELEMENTS", {True: 4000})
    scorer = make(kind)
    for copies in (1, 8):
        images = PackedUnits.cat([packed()[0]] * copies)
        texts = PackedUnits.cat([packed()[1]] * copies)
        with LargestTensor(N * M * copies**2) as seen:
            score_blocks(scorer, images, texts, image_block=N, text_block=M)
        # In one piece, a block would take 9,240 or more; rounding to whole items takes a little beyond 4,000.
        assert 2000 < seen.elements < 6000


def test_progress_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    score_blocks(make("t2i"), *packed(), progress=True)
    assert "score pairs" in capsys.readouterr().err
    score_blocks(make("t2i"), *packed())
    assert capsys.readouterr().err == ""


def test_empty_collections() -> None:
    images, texts = packed()
    none = PackedUnits(torch.zeros(0, D), torch.zeros(0, dtype=torch.long))
    assert score_blocks(make("saf"), none, texts).shape == (0, M)
    assert score_blocks(make("sgr"), images, none).shape == (N, 0)
    nothing = torch.zeros(0, dtype=torch.long)
    assert score_pairs(make("sgr"), images, texts, nothing, nothing).shape == (0,)


def test_bad_input_is_refused() -> None:
    images, texts = packed()
    index = torch.tensor([0, 1])
    for settings in ({"image_block": 0}, {"text_block": -1}):
        with pytest.raises(CrossAlignError, match=next(iter(settings))):
            score_blocks(make("t2i"), images, texts, **settings)
    with pytest.raises(CrossAlignError, match="block is 0"):
        score_pairs(make("t2i"), images, texts, index, index, block=0)
    with pytest.raises(CrossAlignError, match="give \\(p,\\) twice"):
        score_pairs(make("t2i"), images, texts, index, index[:1])
    with pytest.raises(CrossAlignError, match="image index is outside the 11 images"):
        score_pairs(make("t2i"), images, texts, torch.tensor([0, N]), index)
    with pytest.raises(CrossAlignError, match="text index is outside"):
        score_pairs(make("t2i"), images, texts, index, torch.tensor([-1, 0]))
