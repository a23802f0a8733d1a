"""Concepts: their use counted by hand, and codebooks that are there, absent or damaged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))
from hand_made import encoded, grid

from crossalign.errors import CrossAlignError
from crossalign.explain.concepts import Codebook, ConceptCounter, NoCodebookError, load_codebook
from crossalign.recipe import load_recipe
from crossalign.training.checkpoint import save_checkpoint

CODEBOOK = Codebook(torch.eye(6)[:5], epoch=3, model_epoch=2)
WHOLE = (0.0, 0.0, 1.0, 1.0)


def counter() -> ConceptCounter:
    """Two photos of a whole-picture region and four cells; concept 4 is nearest to nothing."""
    counted = ConceptCounter(CODEBOOK)
    boxes = [WHOLE, *grid(2)]
    regions = torch.eye(6)[[3, 0, 0, 1, 2]]
    other = torch.eye(6)[[3, 0, 1, 1, 1]] * torch.tensor([1, 0.5, 0.9, 0.8, 0.7])[:, None]
    other[4, 3] = 0.3
    words = torch.eye(6)
    counted.add(
        encoded("a dog ball", [(0, 1), (2, 5), (6, 10)], words[[3, 0, 1]], regions, boxes, "x", "x#0")
    )
    counted.add(encoded("dog", [(0, 3)], words[[0]], regions, boxes, "x", "x#1"))
    # Nearest to concept 3, but among the regions it is most similar to one of concept 1.
    mixed = torch.tensor([[0, 0.5, 0, 0.9, 0, 0]])
    counted.add(encoded("cat", [(0, 3)], mixed, other, boxes, "y", "y#0"))
    return counted


def test_use_of_the_concepts_by_hand() -> None:
    use = counter().result(10)
    assert (use.concepts, use.images, use.regions, use.words) == (5, 2, 8, 4)
    assert (use.used_by_regions, use.used_by_words) == (3, 3)
    # Regions: 3, 4 and 1 of 8; words: 2, 1 and 1 of 4.
    assert use.region_perplexity == pytest.approx((8 / 3) ** (3 / 8) * 2 ** (4 / 8) * 8 ** (1 / 8))
    assert use.word_perplexity == pytest.approx(2**0.5 * 4**0.5)
    assert use.agreement == pytest.approx(75)
    assert use.chance == pytest.approx(100 * (3 / 8 * 2 / 4 + 4 / 8 * 1 / 4))
    assert [concept.index for concept in use.shown] == [0, 1, 3, 2]
    first, second, third, _ = use.shown
    assert first.words == (("dog", 2),)
    assert (first.region_share, first.word_share) == (pytest.approx(37.5), pytest.approx(50))
    # None is nearest to it, so the most similar ones of all are shown, but never a whole picture.
    assert [concept.owns_regions for concept in use.shown] == [True, True, False, True]
    assert [region.image_id for region in third.regions] == ["y", "x"]
    assert (third.regions[0].box, third.regions[0].similarity) == (grid(2)[3], pytest.approx(0.3))
    assert third.words == (("cat", 1),)
    # One region an image, the most similar one first.
    assert [(region.image_id, region.box) for region in second.regions] == [
        ("x", grid(2)[2]),
        ("y", grid(2)[1]),
    ]
    assert second.regions[1].similarity == pytest.approx(0.9)


def test_units_that_all_point_one_way_differ_once_they_are_centred() -> None:
    concepts = torch.eye(6)[[0, 1, 2, 3, 5]]
    units = F.normalize(3 * torch.eye(6)[5] + torch.eye(6)[:4], dim=1)
    found = {}
    for centred in (False, True):
        counted = ConceptCounter(Codebook(concepts, 1, 1, centred=centred))
        counted.add(encoded("dog cat", [(0, 3), (4, 7)], units[:2], units))
        found[centred] = counted.result(5)
    assert (found[False].used_by_regions, found[False].used_by_words) == (1, 1)
    assert found[True].region_perplexity == pytest.approx(4)
    assert [concept.words for concept in found[True].shown] == [(("dog", 1),), (("cat", 1),), (), ()]
    assert found[True].agreement == 100
    # A region's residual: three quarters along its own axis, a quarter back along each other.
    assert found[True].shown[0].regions[0].similarity == pytest.approx(0.75**0.5)


def test_with_centred_units_a_word_chooses_as_in_training() -> None:
    """Both words are most like the region that is nearest to the mean; less the means, each has one of its own."""
    regions = torch.tensor([[0.28, 0.96], [0.8, 0.6]])
    words = F.normalize(torch.tensor([[0.2, 0.98], [-0.2, 0.98]]), dim=1)
    counted = ConceptCounter(Codebook(torch.tensor([[1.0, 0], [-1.0, 0]]), 1, 1, centred=True))
    counted.add(encoded("dog cat", [(0, 3), (4, 7)], words, regions, grid(2)[:2]))
    assert (words @ regions.T).argmax(dim=1).tolist() == [0, 0]
    assert counted.result(2).agreement == 100


def test_only_so_much_is_shown_as_is_asked_for() -> None:
    use = counter().result(1, regions=1, words=0)
    assert [concept.index for concept in use.shown] == [0]
    assert len(use.shown[0].regions) == 1
    assert use.shown[0].words == ()


def test_nothing_to_count_and_a_foreign_codebook() -> None:
    with pytest.raises(CrossAlignError, match="no region or no word"):
        ConceptCounter(CODEBOOK).result(3)
    with pytest.raises(CrossAlignError, match="6 wide and the regions 4: it belongs to another model"):
        ConceptCounter(CODEBOOK).add(encoded("dog", [(0, 3)], torch.eye(4)[:1], torch.eye(4)))


def checkpoint(run: Path, state: dict[str, Any]) -> Path:
    save_checkpoint(run / "checkpoints" / "last.ckpt", state)
    return run


def test_the_codebook_of_a_run_has_unit_norm_and_its_epoch(tmp_path: Path) -> None:
    weights = {"objective.lca.codebook": 3 * torch.eye(4)[:2], "model.x": torch.zeros(1)}
    run = checkpoint(tmp_path / "run", {"weights": weights, "state": {"epoch": 5, "best_epoch": 4}})
    codebook = load_codebook(run)
    assert torch.equal(codebook.vectors, torch.eye(4)[:2])
    assert (codebook.epoch, codebook.model_epoch) == (5, 4)
    assert (codebook.units, codebook.centred) == ("locals", False)
    (run / "recipe.yaml").write_text(load_recipe("scenes-vse-selfalign").to_yaml())
    assert load_codebook(run).centred


def test_no_codebook_is_no_mistake(tmp_path: Path) -> None:
    with pytest.raises(NoCodebookError, match="no training run with a checkpoint"):
        load_codebook(tmp_path)
    run = checkpoint(tmp_path / "run", {"weights": {}, "state": {"epoch": 5, "best_epoch": 4}})
    with pytest.raises(NoCodebookError, match="without Local Concept Alignment"):
        load_codebook(run)


@pytest.mark.parametrize(
    "state",
    [
        {"weights": {"objective.lca.codebook": torch.eye(2)}},
        {"weights": {"objective.lca.codebook": torch.zeros(3)}, "state": {"epoch": 1, "best_epoch": 1}},
        {
            "weights": {"objective.lca.codebook": torch.full((2, 2), torch.nan)},
            "state": {"epoch": 1, "best_epoch": 1},
        },
        {"weights": {"objective.lca.codebook": "text"}, "state": {"epoch": 1, "best_epoch": 1}},
        {"weights": None, "state": {"epoch": 1, "best_epoch": 1}},
    ],
)
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path: Path, state: dict[str, Any]) -> None:
    run = checkpoint(tmp_path / "run", state)
    with pytest.raises(CrossAlignError, match=r"last\.ckpt: .*train it again") as caught:
        load_codebook(run)
    assert not isinstance(caught.value, NoCodebookError)
    (run / "checkpoints" / "last.ckpt").write_bytes(b"nonsense")
    with pytest.raises(CrossAlignError, match="damaged checkpoint"):
        load_codebook(run)
