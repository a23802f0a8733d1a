"""The picture shows the pairs in their colours, in their places, whatever the sizes."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
from hand_made import encoded, grid, said

from crossalign.explain.correspondence import Correspondence, correspond
from crossalign.explain.heat import heat_colours, heat_map, heat_over_photo
from crossalign.explain.marks import (
    PALETTE,
    filled_square,
    ink_on,
    mapped_words,
    marked_photo,
    pixel_box,
    word_ranks,
)
from crossalign.explain.overlay import LARGEST_TOP, draw_correspondence

GREY = (120, 120, 120)


def found_pairs() -> Correspondence:
    return correspond(said("dog ball", [(0, 0.9), (3, 0.3)]))


def where(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what has exactly this colour."""
    rows, columns = np.nonzero((np.asarray(picture) == colour).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


# ---- the marked photo


def test_frames_stand_around_the_chosen_regions_in_the_pairs_colours() -> None:
    picture = marked_photo(Image.new("RGB", (400, 300), GREY), found_pairs())
    assert picture.size == (400, 300)
    assert where(picture, PALETTE[0]) == (0, 0, 200, 150)
    assert where(picture, PALETTE[1]) == (200, 150, 400, 300)


def test_chosen_regions_keep_their_colours_and_the_others_fade() -> None:
    pixels = np.asarray(marked_photo(Image.new("RGB", (400, 300), GREY), found_pairs()))
    assert tuple(pixels[120, 100]) == GREY
    assert tuple(pixels[280, 300]) == GREY
    assert (pixels[75, 300] > 120).all()
    assert (pixels[75, 300] < 255).all()


def test_words_that_chose_one_region_have_frames_inside_each_other() -> None:
    found = correspond(said("dog cat cow", [(0, 0.9), (0, 0.8), (0, 0.7)]))
    picture = marked_photo(Image.new("RGB", (400, 300), GREY), found)
    boxes = [where(picture, PALETTE[rank]) for rank in range(3)]
    assert boxes == [(0, 0, 200, 150), (6, 6, 194, 144), (12, 12, 188, 138)]


def test_labels_do_not_cover_each_other() -> None:
    found = correspond(said("dog cat cow", [(0, 0.9), (0, 0.8), (0, 0.7)]))
    pixels = np.asarray(marked_photo(Image.new("RGB", (400, 300), GREY), found)).astype(int)
    labels = []
    for rank in range(3):
        inside = (pixels[20:130, 20:180] == PALETTE[rank]).all(axis=2).sum(axis=1) > 15
        labels.append(set(np.flatnonzero(inside).tolist()))
    assert all(labels)
    assert not labels[0] & labels[1] | labels[1] & labels[2] | labels[0] & labels[2]


def test_pixel_boxes_are_inside_and_never_empty() -> None:
    assert pixel_box((0.25, 0.0, 0.5, 1.0), (8, 4)) == (2, 0, 4, 4)
    assert pixel_box((-0.5, -1.0, 2.0, 1.5), (8, 4)) == (0, 0, 8, 4)
    assert pixel_box((1.0, 1.0, 1.0, 1.0), (8, 4)) == (7, 3, 8, 4)
    assert pixel_box((0.3, 0.3, 0.3, 0.3), (1, 1)) == (0, 0, 1, 1)


def test_a_crop_fills_its_square_from_the_middle() -> None:
    crop = Image.new("RGB", (30, 10), (255, 0, 0))
    crop.paste((0, 0, 255), (10, 0, 20, 10))
    square = filled_square(crop, 20)
    assert square.size == (20, 20)
    assert square.getpixel((10, 10)) == (0, 0, 255)
    assert filled_square(Image.new("RGB", (1, 500), GREY), 9).size == (9, 9)


def test_repetitions_of_a_word_share_its_colour() -> None:
    found = correspond(said("red dog red ball red", [(1, 0.5), (0, 0.9), (1, 0.5), (2, 0.7), (3, 0.4)]))
    assert word_ranks(found) == {0: 2, 1: 0, 2: 2, 3: 1, 4: 3}


def _lightness(colour: tuple[int, int, int]) -> float:
    red, green, blue = (
        value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in colour
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_of_repetitions_the_most_similar_one_has_the_heat_map() -> None:
    found = correspond(said("dog cat dog", [(0, 0.4), (1, 0.2), (0, 0.9)]))
    assert mapped_words(found, all_words=False, most=5) == [1, 2]
    assert mapped_words(found, all_words=False, most=1) == [1]
    assert found.pairs[0].word == 2


def test_a_bar_is_as_long_as_its_similarity() -> None:
    picture = draw_correspondence(Image.new("RGB", (720, 540), GREY), found_pairs())
    lengths = []
    for rank in (0, 1):
        below = np.asarray(picture)[: 40 + 540, 40 + 720 + 36 + 92 :]
        rows = (below == PALETTE[rank]).all(axis=2)
        lengths.append(int(rows[40 + 40 + 84 * rank + 52].sum()))
    full = 1200 - 2 * 40 - (720 + 36 + 92)
    assert lengths == pytest.approx([0.9 * full, 0.3 * full], abs=4)


def test_words_can_be_read_on_every_colour() -> None:
    for colour in PALETTE:
        light, dark = sorted((_lightness(colour), _lightness(ink_on(colour))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3  # WCAG 2.2, 1.4.3, large text


# ---- heat maps


def test_heat_is_high_where_the_similar_region_is() -> None:
    heat = heat_map(torch.tensor([0.1, 0.2, 0.3, 0.9]), torch.tensor(grid(2)), (400, 200))
    assert heat.shape == (64, 128)
    assert heat[48, 96] > 0.9
    assert heat[16, 32] < 0.1
    assert 0.1 < heat[48, 32] < 0.4
    assert 0 <= heat.min() <= heat.max() <= 1


def test_places_that_no_box_covers_are_cold_and_the_best_of_several_boxes_counts() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.25, 0.0, 0.5, 1.0], [0.0, 0.9, 0.1, 1.0]])
    heat = heat_map(torch.tensor([0.5, 1.0, 0.0]), boxes, (100, 100))
    assert heat[40, 48] > 0.9
    assert 0.4 < heat[40, 8] < 0.6
    assert heat[40, 110] == 0


def test_a_small_region_among_large_ones_is_as_hot_as_it_is_similar() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0], [0.1, 0.1, 0.15, 0.15]])
    assert heat_map(torch.tensor([0.1, 0.3, 0.9]), boxes, (100, 100))[15, 15] > 0.8


def test_a_word_without_preference_has_an_even_map() -> None:
    heat = heat_map(torch.full((4,), 0.3), torch.tensor(grid(2)), (50, 50))
    assert (heat == 0).all()


def test_the_colour_scale_rises_in_lightness() -> None:
    colours = heat_colours(np.linspace(0, 1, 50, dtype=np.float32))
    assert colours.dtype == np.uint8
    lightness = [_lightness(tuple(colour)) for colour in colours.tolist()]
    assert all(after > before for before, after in pairwise(lightness))


def test_a_value_has_about_one_colour_on_dark_and_on_bright_places() -> None:
    photo = Image.fromarray(np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None], 64, axis=0))
    for value in (0.0, 0.5, 1.0):
        heat = np.full((8, 8), value, np.float32)
        shown = np.asarray(heat_over_photo(photo, heat), int)
        assert np.abs(shown - heat_colours(heat)[0, 0]).max() < 80
        assert np.ptp(shown[..., 0]) < 60


def test_a_heat_map_over_a_photo_has_its_size() -> None:
    heat = heat_map(torch.tensor([0.1, 0.9]), torch.tensor([[0, 0, 0.5, 1], [0.5, 0, 1, 1]]), (90, 31))
    shown = heat_over_photo(Image.new("RGB", (90, 31), GREY), heat)
    assert shown.size == (90, 31)
    left, right = shown.getpixel((5, 15)), shown.getpixel((85, 15))
    assert left[2] > left[0]  # blue
    assert right[0] > right[2]  # yellow


# ---- the whole picture


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000), (640, 480), (17, 19), (480, 1200)])
@pytest.mark.parametrize("cells", [1, 2, 9])
def test_any_size_of_photo_and_any_number_of_regions(size: tuple[int, int], cells: int) -> None:
    found = correspond(said("dog ball cat", [(0, 0.9), (cells * cells - 1, 0.3), (0, 0.1)], cells))
    picture = draw_correspondence(Image.new("RGB", size, GREY), found, note="note")
    assert picture.width == 1200
    assert picture.height < 1600
    for rank in range(3):
        assert (np.asarray(picture) == PALETTE[rank]).all(axis=2).any()


@pytest.mark.parametrize(
    "text", ["w" * 900, "word " * 200, "写真 ünï " * 30, "dog " + "." * 500, "a\n\tdog", "x\u0000y"]
)
def test_any_caption_stays_on_the_paper(text: str) -> None:
    pair = said(text, [(0, 0.9)] * len(text.split()))
    paper = np.asarray(draw_correspondence(Image.new("RGB", (60, 40), GREY), correspond(pair), note=text))
    edges = np.concatenate([paper[:, :30].reshape(-1, 3), paper[:, -30:].reshape(-1, 3)])
    assert (edges == paper[0, 0]).all()


def test_words_that_the_model_did_not_read_are_still_in_the_caption() -> None:
    short = encoded("dog", [(0, 3)], torch.eye(4)[:1], torch.eye(4))
    long = replace(short, text="dog" + " and more" * 60)
    photo = Image.new("RGB", (60, 40), GREY)
    assert (
        draw_correspondence(photo, correspond(long)).height
        > draw_correspondence(photo, correspond(short)).height + 60
    )


def test_negative_similarities_are_drawn_too() -> None:
    found = correspond(said("dog ball", [(0, 0.9), (3, 0.3)]), units="context")
    assert found.pairs[0].similarity <= 0
    draw_correspondence(Image.new("RGB", (60, 40), GREY), found)


def test_all_words_have_heat_maps_when_asked_for() -> None:
    text = " ".join(["a", "the", "of", "in", "on", "at", "by", "to"])
    found = correspond(said(f"dog {text}", [(0, 0.9)] + [(1, 0.1)] * 8))
    photo = Image.new("RGB", (60, 60), GREY)
    few, many = draw_correspondence(photo, found), draw_correspondence(photo, found, all_words=True)
    assert many.height > few.height


def test_more_pairs_than_colours() -> None:
    words = "ant bee cat dog elk fox gnu hen"
    found = correspond(said(words, [(0, 0.5)] * 8), top=8)
    with pytest.raises(ValueError, match=f"8 pairs for {LARGEST_TOP} colours"):
        draw_correspondence(Image.new("RGB", (9, 9)), found)
