"""Numbers beside the alignments' losses, against plain loops and cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.alignment import lca_loss, sinkhorn
from crossalign.alignment.statistics import concept_counts, guide_accuracy, perplexity, target_entropy

U, B, R, W, D, K = 4, 6, 5, 7, 12, 10
ROWS = torch.tensor([0, 0, 1, 2, 3, 3])
REGIONS = torch.arange(R) < torch.tensor([5, 2, 0, 4]).unsqueeze(1)
WORDS = torch.arange(W) < torch.tensor([7, 3, 2, 4, 0, 1]).unsqueeze(1)


def units(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    return units(U, R, D), units(B, W, D, seed=1), units(K, D, seed=2)


def test_target_entropy_counts_past_regions_and_allowed_ones() -> None:
    torch.manual_seed(1)
    regions, words = (F.normalize(torch.randn(2, n, D), dim=2) for n in (3, 2))
    codebook, past = F.normalize(torch.randn(K, D), dim=1), F.normalize(torch.randn(9, D), dim=1)
    allowed = torch.tensor([[[0, 0, 1], [1, 0, 0]], [[0, 0, 0], [0, 1, 0]]], dtype=torch.bool)
    assigned = sinkhorn(torch.cat([regions.flatten(0, 1), past]) @ codebook.T)
    entropy = torch.special.entr(assigned).sum(dim=1)
    found = target_entropy(regions, words, codebook, allowed=allowed, past=past)
    torch.testing.assert_close(found, ((entropy[2] + entropy[0]) / 2 + entropy[4]) / 2)


def test_target_entropy_equals_plain_loops() -> None:
    regions, words, codebook = batch()
    places = [(image, region) for image in range(U) for region in range(R) if REGIONS[image, region]]
    logits = torch.stack([codebook @ regions[place] for place in places])
    assigned = dict(zip(places, sinkhorn(logits, 0.1, 3), strict=True))
    of_texts = []
    for text in range(B):
        image = int(ROWS[text])
        entropies = []
        for word in range(W):
            own = [place for place in places if place[0] == image]
            if WORDS[text, word] and own:
                taken = max(own, key=lambda place: float(words[text, word] @ regions[place]))
                entropies.append(-sum(float(p) * math.log(float(p)) for p in assigned[taken] if p > 0))
        if entropies:
            of_texts.append(sum(entropies) / len(entropies))
    assert len(of_texts) == 4
    found = target_entropy(regions, words, codebook, REGIONS, WORDS, ROWS, epsilon=0.1, sinkhorn_iterations=3)
    assert float(found) == pytest.approx(sum(of_texts) / len(of_texts), rel=1e-9)


def test_the_loss_is_never_below_the_entropy_and_reaches_it() -> None:
    regions, words, codebook = batch()
    masks = (REGIONS, WORDS)
    loss = lca_loss(regions, words, codebook, *masks, image_rows=ROWS)
    assert loss > target_entropy(regions, words, codebook, *masks, ROWS)
    # One concept everywhere: what is asked for is certain, and so is the answer where the codebook is spread wide.
    axes = torch.eye(D, dtype=torch.float64)
    regions, words = axes[:K].expand(2, K, D), axes[:K].expand(2, K, D)
    settings = {"epsilon": 0.01, "sinkhorn_iterations": 2}
    sharp = target_entropy(regions, words, axes[:K], **settings)
    loss = lca_loss(regions, words, axes[:K], word_temperature=0.01, **settings)
    assert float(sharp) == pytest.approx(float(loss), abs=1e-6)
    flat = target_entropy(regions, words, axes[:K], epsilon=1e6)
    assert float(flat) == pytest.approx(math.log(K), abs=1e-6)


@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
def test_padded_units_have_no_influence(garbage: float) -> None:
    regions, words, codebook = batch()
    spoilt = regions.masked_fill(~REGIONS.unsqueeze(-1), garbage)
    spoilt_words = words.masked_fill(~WORDS.unsqueeze(-1), garbage)
    entropy = target_entropy(regions, words, codebook, REGIONS, WORDS, ROWS)
    assert torch.equal(target_entropy(spoilt, spoilt_words, codebook, REGIONS, WORDS, ROWS), entropy)
    assert torch.equal(concept_counts(spoilt, codebook, REGIONS), concept_counts(regions, codebook, REGIONS))
    images = torch.arange(U)
    guides = units(B, D, seed=3)
    assert torch.equal(
        guide_accuracy(guides, spoilt, REGIONS, ROWS, images),
        guide_accuracy(guides, regions, REGIONS, ROWS, images),
    )


def test_nothing_real_gives_zero() -> None:
    regions, words, codebook = batch()
    nothing = torch.zeros_like(REGIONS)
    assert target_entropy(regions, words, codebook, nothing, WORDS, ROWS) == 0
    assert concept_counts(regions, codebook, nothing).sum() == 0
    assert guide_accuracy(units(B, D), regions, nothing, ROWS, torch.arange(U)) == 0


def test_concepts_are_counted_one_by_one() -> None:
    regions, _, codebook = batch()
    expected = [0] * K
    for image in range(U):
        for region in range(R):
            if REGIONS[image, region]:
                expected[int((codebook @ regions[image, region]).argmax())] += 1
    assert concept_counts(regions, codebook, REGIONS).tolist() == expected
    assert sum(concept_counts(regions, codebook).tolist()) == U * R


@pytest.mark.parametrize(
    ("counts", "value"), [([3, 3, 3, 3], 4.0), ([0, 9, 0], 1.0), ([5, 5, 0, 0], 2.0), ([0, 0], 0.0)]
)
def test_perplexity_by_hand(counts: list[int], value: float) -> None:
    assert float(perplexity(torch.tensor(counts))) == pytest.approx(value)


def test_guides_that_find_their_image_by_hand() -> None:
    axes = torch.eye(4)
    keys = torch.stack([axes[[0, 1]], axes[[2, 3]]])
    guides = axes[[0, 3, 2, 1]]
    names = torch.tensor([7, 7, 9, 7])
    assert float(guide_accuracy(guides, keys, None, names, torch.tensor([7, 9]))) == 75.0
    masked = torch.tensor([[True, True], [True, False]])
    assert float(guide_accuracy(guides[:1], keys, masked, names[:1], torch.tensor([7, 9]))) == 100.0
    half = guide_accuracy(guides.bfloat16(), keys.bfloat16(), None, names, torch.tensor([7, 9]))
    assert float(half) == 75.0
