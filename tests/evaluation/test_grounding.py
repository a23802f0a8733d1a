"""Word-to-region accuracy against hand-made cases, plain loops and simulation."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from crossalign.errors import CrossAlignError
from crossalign.evaluation.grounding import (
    GroundingSample,
    GroundingTally,
    grounding_accuracy,
    regions_that_show,
    span_vectors,
    word_region_accuracy,
)
from crossalign.evaluation.region_match import regions_of_words

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Word:
    start: int
    end: int
    kind: str
    box: Box

    @property
    def boxes(self) -> tuple[Box, ...]:
        return (self.box,)


def grid(cells: int) -> torch.Tensor:
    edges = [index / cells for index in range(cells + 1)]
    return torch.tensor(
        [[edges[x], edges[y], edges[x + 1], edges[y + 1]] for y in range(cells) for x in range(cells)]
    )


def test_span_vectors_average_the_tokens_that_overlap_and_ignore_special_ones() -> None:
    #        "a royal-blue star": [CLS] a royal - blue star [SEP]
    offsets = torch.tensor([[0, 0], [0, 1], [2, 7], [7, 8], [8, 12], [13, 17], [0, 0]])
    words = torch.eye(7)
    spans = [
        Word(2, 12, "colour", (0, 0, 1, 1)),
        Word(13, 17, "shape", (0, 0, 1, 1)),
        Word(20, 24, "shape", (0, 0, 1, 1)),
    ]
    vectors, covered = span_vectors(words, offsets, spans)
    third = 1 / 3
    assert torch.allclose(vectors[0], torch.tensor([0, 0, third, third, third, 0, 0]))
    assert torch.equal(vectors[1], torch.eye(7)[5])
    assert torch.equal(vectors[2], torch.zeros(7))
    assert covered.tolist() == [True, True, False]


def test_special_tokens_never_belong_to_a_span_at_the_start_of_the_text() -> None:
    vectors, _ = span_vectors(
        torch.eye(2), torch.tensor([[0, 0], [0, 4]]), [Word(0, 4, "shape", (0, 0, 1, 1))]
    )
    assert torch.equal(vectors[0], torch.tensor([0.0, 1.0]))


def test_centre_rule_on_a_grid() -> None:
    objects = torch.tensor(
        [
            [0.05, 0.05, 0.15, 0.15],  # far smaller than a cell: the cell that holds its centre
            [0.0, 0.0, 0.5, 0.25],  # covers two cells exactly
            [0.30, 0.30, 0.70, 0.70],  # four cell centres, at 0.375 and 0.625
        ]
    )
    right = regions_that_show(grid(4), objects, "centre")
    found = [sorted(torch.nonzero(row).flatten().tolist()) for row in right]
    assert found == [[0], [0, 1], [5, 6, 9, 10]]


def test_every_object_has_a_right_cell_in_a_grid() -> None:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(200, 2, generator=generator) * 0.9
    objects = torch.cat([corners, corners + 0.01 + 0.09 * torch.rand(200, 2, generator=generator)], dim=1)
    assert regions_that_show(grid(7), objects, "centre").any(dim=1).all()


def test_overlap_rule_equals_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(2)

    def boxes(count: int) -> torch.Tensor:
        corner = torch.rand(count, 2, generator=generator) * 0.5
        return torch.cat([corner, corner + 0.2 + 0.3 * torch.rand(count, 2, generator=generator)], dim=1)

    regions, objects = boxes(60), boxes(20)
    regions[0] = 0.0  # a padded box
    right = regions_that_show(regions, objects, "overlap")
    for i, (a, b, c, d) in enumerate(objects.tolist()):
        for j, (e, f, g, h) in enumerate(regions.tolist()):
            shared = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
            union = (c - a) * (d - b) + (g - e) * (h - f) - shared
            assert bool(right[i, j]) == (shared / union >= 0.5)
    assert right.any()
    assert not right[:, 0].any()


def test_unknown_rule() -> None:
    with pytest.raises(ValueError, match="choose 'centre', 'overlap' or 'point'"):
        regions_that_show(grid(2), grid(2), "nearest")  # type: ignore[arg-type]


def test_hits_ties_and_candidates() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.5, 0.1], [0.1, 0.9, 0.3], [0.1, 0.2, 0.9]])
    right = torch.tensor(
        [[True, False, False], [True, False, False], [False, False, True], [False, False, False]]
    )
    hits, chance = word_region_accuracy(similarity, right)
    assert hits.tolist() == [True, False, False, False]  # the second is a tie, the fourth has no right region
    assert torch.allclose(chance, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0]))
    hits, chance = word_region_accuracy(similarity, right, torch.tensor([True, False, True]))
    assert hits.tolist() == [True, True, True, False]
    assert torch.allclose(chance, torch.tensor([0.5, 0.5, 0.5, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes_agree(dtype: torch.dtype) -> None:
    similarity = torch.tensor([[0.5, -1.0], [-1.0, 0.5]], dtype=dtype)
    hits, _ = word_region_accuracy(similarity, torch.eye(2, dtype=torch.bool))
    assert hits.tolist() == [True, True]


def scene_sample(image: int, vectors: str, generator: torch.Generator) -> GroundingSample:
    """A whole-image unit before a 4x4 grid, with two words, drawn by lot or pointing at the right cell."""
    boxes = torch.cat([torch.tensor([[0.0, 0.0, 1.0, 1.0]]), grid(4)])
    regions = torch.randn(17, 8, generator=generator)
    corners = torch.rand(2, 2, generator=generator) * 0.7
    spans = [
        Word(2 + 6 * i, 7 + 6 * i, kind, (*corner, corner[0] + 0.25, corner[1] + 0.25))
        for i, (kind, corner) in enumerate(zip(("colour", "shape"), corners.tolist(), strict=True))
    ]
    offsets = torch.tensor([[0, 0], [0, 1], [2, 7], [8, 13], [0, 0]])
    words = torch.randn(5, 8, generator=generator)
    if vectors == "right":
        regions = torch.nn.functional.normalize(regions, dim=1)
        right = regions_that_show(boxes, torch.tensor([span.box for span in spans]), "centre")
        for i in range(2):
            words[2 + i] = 3 * regions[1 + int(right[i, 1:].int().argmax())]
    return GroundingSample(f"image {image}", regions, boxes, words, offsets, spans)


def test_chance_is_what_random_vectors_reach() -> None:
    generator = torch.Generator().manual_seed(3)
    result = grounding_accuracy(scene_sample(i, "random", generator) for i in range(3000))
    assert 5 < result.chance < 15
    assert abs(result.accuracy - result.chance) < 1.5  # six thousand words: three standard errors
    assert result.interval[0] < result.chance < result.interval[1]
    assert result.words == 6000
    assert result.images == 3000


def test_right_vectors_reach_everything() -> None:
    generator = torch.Generator().manual_seed(4)
    result = grounding_accuracy([scene_sample(i, "right", generator) for i in range(50)])
    assert result.accuracy == 100
    assert result.answerable == 100
    assert result.interval == (100, 100)
    assert {kind: entry.words for kind, entry in result.by_kind.items()} == {"colour": 50, "shape": 50}


def test_whole_image_and_padding_are_never_chosen() -> None:
    boxes = torch.tensor(
        [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    )
    regions = torch.tensor([[9.0], [1.0], [0.5], [7.0]])
    mask = torch.tensor([True, True, True, False])
    span = Word(0, 4, "shape", (0.1, 0.4, 0.3, 0.6))
    sample = GroundingSample("a", regions, boxes, torch.ones(1, 1), torch.tensor([[0, 4]]), [span], mask)
    result = grounding_accuracy([sample])
    assert (result.accuracy, result.chance) == (100, 50)


def test_result_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])
    left, right, thin = (0.1, 0.4, 0.3, 0.6), (0.6, 0.0, 0.9, 1.0), (0.5, 0.0, 0.55, 0.05)
    regions = torch.eye(2)
    words = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    offsets = torch.tensor([[0, 3], [4, 8], [9, 12]])
    first = [Word(0, 3, "colour", left), Word(4, 8, "shape", left), Word(30, 34, "shape", left)]
    second = [Word(0, 3, "colour", right), Word(4, 8, "shape", right), Word(9, 12, "size", thin)]
    samples = [
        GroundingSample("a", regions, boxes, words, offsets, first),
        GroundingSample("b", regions, boxes, words, offsets, second),
        GroundingSample("c", regions, boxes, words, offsets, []),
    ]
    result = grounding_accuracy(samples, rule="overlap")
    # Half a picture overlaps enough only with the box that fills 0.3 of it.
    assert result.words == 5
    assert result.skipped == 1
    assert result.images == 2
    assert result.answerable == pytest.approx(40)
    assert result.accuracy == pytest.approx(20)
    assert result.chance == pytest.approx(20)
    assert result.by_kind["shape"].words == 2
    assert result.by_kind["shape"].accuracy == pytest.approx(50)
    result = grounding_accuracy(samples, rule="centre")
    # "a": colour right, shape wrong. "b": colour wrong, shape right, the thin one (on the right) wrong.
    assert result.accuracy == pytest.approx(40)
    assert result.chance == pytest.approx(50)
    assert result.by_kind["colour"].accuracy == pytest.approx(50)
    assert result.by_kind["size"].accuracy == 0
    assert grounding_accuracy(samples) == grounding_accuracy(samples)
    assert result.to_json()["by_kind"]["size"] == {"accuracy": 0.0, "chance": 50.0, "words": 1}


def test_interval_draws_images_not_words() -> None:
    """All words of an image stand or fall together here, so the interval is as wide as that of the images."""
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])
    samples = []
    for image in range(20):
        box = (0.1, 0.0, 0.4, 1.0) if image % 2 else (0.6, 0.0, 0.9, 1.0)
        spans = [Word(0, 3, "shape", box)] * 50
        samples.append(
            GroundingSample(str(image), torch.eye(2), boxes, torch.eye(2)[:1], torch.tensor([[0, 3]]), spans)
        )
    result = grounding_accuracy(samples)
    assert result.accuracy == 50
    assert (
        result.interval[1] - result.interval[0] > 30
    )  # +-1.96 * sqrt(0.25 / 20) = 44; by words it would be 6


def test_nothing_to_measure() -> None:
    with pytest.raises(CrossAlignError, match="no word with a known object"):
        grounding_accuracy([])


@dataclass(frozen=True)
class Several:
    start: int
    end: int
    kind: str
    boxes: tuple[Box, ...]


def test_the_pointing_game_needs_the_regions_centre_in_the_object() -> None:
    objects = torch.tensor([[0.05, 0.05, 0.12, 0.12], [0.0, 0.0, 0.5, 0.25], [0.3, 0.3, 0.7, 0.7]])
    right = regions_that_show(grid(4), objects, "point")
    # The first object is smaller than its cell and misses the cell's centre: no region points at it.
    assert [torch.nonzero(row).flatten().tolist() for row in right] == [[], [0, 1], [5, 6, 9, 10]]


def test_any_of_a_words_boxes_is_right() -> None:
    left, right, nowhere = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 0.01, 0.01)
    words = [
        Several(0, 1, "a", (left, right)),
        Several(0, 1, "a", ()),
        Several(0, 1, "a", (nowhere, right)),
        Several(0, 1, "a", (left,)),
    ]
    regions = torch.tensor([left, right, (0.25, 0.0, 0.75, 1.0)])
    assert regions_of_words(regions, words, "overlap").tolist() == [
        [True, True, False],
        [False, False, False],
        [False, True, False],
        [True, False, False],
    ]
    assert regions_of_words(regions, [], "overlap").shape == (0, 3)


def test_an_image_without_regions_is_a_miss() -> None:
    span = Word(0, 3, "shape", (0, 0, 1, 1))
    empty = GroundingSample(
        "a", torch.zeros(0, 2), torch.zeros(0, 4), torch.eye(2)[:1], torch.tensor([[0, 3]]), [span]
    )
    result = grounding_accuracy([empty])
    assert (result.accuracy, result.chance, result.answerable, result.words) == (0, 0, 0, 1)


def tally(wins: list[list[bool]], kinds: str = "shape", cut: int | None = None) -> GroundingTally:
    """For each image and word whether it is found; of image ``cut`` no token is left."""
    counted = GroundingTally("centre")
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])
    for image, words in enumerate(wins):
        spans = [Word(0, 3, kinds, (0.1, 0.0, 0.4, 1.0) if won else (0.6, 0.0, 0.9, 1.0)) for won in words]
        offsets = torch.zeros(1, 2, dtype=torch.long) if image == cut else torch.tensor([[0, 3]])
        counted.add(GroundingSample(str(image), torch.eye(2), boxes, torch.eye(2)[:1], offsets, spans))
    return counted


def test_the_difference_from_a_base_model_by_hand() -> None:
    model, base = tally([[True, True], [True, False, False]]), tally([[True, False], [False, False, False]])
    found = model.less(base)
    assert found.difference == pytest.approx(40)
    assert found.words == 5
    # Either image alone: one word more of two, or of three.
    assert found.interval == (pytest.approx(100 / 3), pytest.approx(50))
    assert base.less(model).difference == pytest.approx(-40)
    assert model.less(model).interval == (0, 0)
    assert model.less(base).to_json()["words"] == 5


def test_words_that_one_of_the_models_has_cut_off_are_no_difference() -> None:
    model, base = tally([[True], [True]]), tally([[False], [False]], cut=1)
    assert model.less(base).words == 1
    assert model.less(base).difference == pytest.approx(100)
    assert base.result().skipped == 1


def test_models_that_counted_different_words_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different words"):
        tally([[True]]).less(tally([[True]], kinds="colour"))
    with pytest.raises(ValueError, match="different words"):
        tally([[True]]).less(tally([[True, True]]))
    with pytest.raises(CrossAlignError, match="tokens of both models"):
        tally([[True]]).less(tally([[True]], cut=0))
    other = tally([[True]])
    other.rule = "overlap"
    with pytest.raises(ValueError, match="different rules: centre and overlap"):
        tally([[True]]).less(other)
