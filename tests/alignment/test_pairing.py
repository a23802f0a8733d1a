"""Pairings: never one's own image, every image once, the same for the same batch."""

from __future__ import annotations

import pytest
import torch

from crossalign.alignment.pairing import caption_pairs, other_images


def test_images_hand_their_texts_on_in_the_order_of_the_batch() -> None:
    # Named first in the order 3, 1, 0, 2.
    rows = torch.tensor([3, 1, 3, 0, 1, 2])
    assert other_images(rows, 4).tolist() == [1, 0, 1, 2, 0, 3]


@pytest.mark.parametrize("seed", range(5))
def test_no_text_keeps_its_image_and_every_image_is_taken(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.cat([torch.arange(7), torch.randint(7, (12,), generator=generator)])
    rows = rows[torch.randperm(len(rows), generator=generator)]
    other = other_images(rows, 7)
    assert (other != rows).all()
    assert set(other.tolist()) == set(range(7))
    # One image's texts go together, so that as many texts share an image as before.
    assert len({(a, b) for a, b in zip(rows.tolist(), other.tolist(), strict=True)}) == 7


def test_a_single_image_stays() -> None:
    assert other_images(torch.zeros(3, dtype=torch.long), 1).tolist() == [0, 0, 0]


def test_every_caption_meets_the_next_one_of_its_image() -> None:
    first, second = caption_pairs(torch.tensor([2, 0, 2, 1, 0, 2]))
    assert dict(zip(first.tolist(), second.tolist(), strict=True)) == {1: 4, 4: 1, 0: 2, 2: 5, 5: 0}


@pytest.mark.parametrize("rows", [[], [0], [0, 1, 2], [2, 5, 1]])
def test_captions_that_are_alone_have_no_pair(rows: list[int]) -> None:
    first, second = caption_pairs(torch.tensor(rows, dtype=torch.long))
    assert first.tolist() == second.tolist() == []
