"""The base loss on cut embeddings: by plain loops, its gradients, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from crossalign.errors import CrossAlignError
from crossalign.losses import ContrastiveLoss, HingeRankingLoss
from crossalign.model import ModelConfig
from crossalign.objective import Objective, ObjectiveSettings
from crossalign.recipe import load_recipe
from crossalign.truncation import truncate
from test_objective import DIM, ROWS, clone, encodings, terms_of

ENRICHED = ModelConfig(dim=DIM, context_head=True)


def build(model: ModelConfig = ENRICHED, **settings: Any) -> Objective:
    return Objective(ObjectiveSettings.model_validate(settings), model)


def cut(vector: Tensor, width: int, parts: int) -> Tensor:
    """One vector, cut part by part, each to the norm it had."""
    pieces = []
    for part in vector.chunk(parts):
        left = part[: width // parts]
        # Of a context vector nothing may be left: it has many zeros.
        pieces.append(left / left.norm() * part.norm() if left.any() else left)
    return torch.cat(pieces)


def scores_at(image: Tensor, text: Tensor, width: int, parts: int) -> Tensor:
    """Scores of every text's image with every text, the best view counting."""
    scores = torch.empty(len(ROWS), len(text))
    for i, row in enumerate(ROWS.tolist()):
        views = image[row].reshape(-1, image.shape[-1])
        for j in range(len(text)):
            told = cut(text[j], width, parts)
            scores[i, j] = max(float(cut(view, width, parts) @ told) for view in views)
    return scores


@pytest.mark.parametrize("kind", ["hinge", "contrastive"])
@pytest.mark.parametrize("views", [None, 3])
def test_the_term_is_the_mean_of_the_base_loss_over_the_widths(kind: str, views: int | None) -> None:
    image, text = encodings(views)
    objective = build(base={"kind": kind}, matryoshka={"widths": [0.5, 3, "1/4"], "weight": 0.7})
    terms = terms_of(objective, image, text, ROWS)
    assert list(terms) == [kind, "matryoshka"]
    loss = HingeRankingLoss(0.2, "all") if kind == "hinge" else ContrastiveLoss(0.05).from_scores
    with torch.no_grad():
        losses = [loss(scores_at(image.embedding, text.embedding, width, 3), ROWS) for width in (12, 3, 6)]
        torch.testing.assert_close(terms["matryoshka"], sum(losses) / 3, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(objective.total(terms), terms[kind] + 0.7 * terms["matryoshka"])
    if kind == "hinge":
        objective.begin_epoch(1)
        later = terms_of(objective, image, text, ROWS)["matryoshka"]
        assert later < terms["matryoshka"], "the hardest negatives alone cost less than all of them"


def test_a_projected_embedding_is_one_part() -> None:
    image, text = encodings()
    image, text = (clone(given, embedding=given.embedding[:, :10]) for given in (image, text))
    model = ModelConfig(dim=DIM, context_head=True, embedding_size=10)
    objective = build(model, base={"kind": "hinge"}, matryoshka={"widths": ["1/2"]})
    term = terms_of(objective, image, text, ROWS)["matryoshka"]
    with torch.no_grad():
        expected = HingeRankingLoss(0.2, "all")(scores_at(image.embedding, text.embedding, 5, 1), ROWS)
    torch.testing.assert_close(term, expected, atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_first_numbers_of_every_part_of_both_sides() -> None:
    image, text = (
        clone(one, embedding=torch.randn(one.embedding.shape, requires_grad=True)) for one in encodings()
    )
    objective = build(base={"kind": "contrastive"}, matryoshka={"widths": [6]})
    terms_of(objective, image, text, ROWS)["matryoshka"].backward()
    for encoding in (image, text):
        assert encoding.embedding.grad is not None
        for part, values in zip(
            encoding.embedding.grad.split(DIM, dim=1), encoding.embedding.split(DIM, dim=1), strict=True
        ):
            assert (part[:, :2].abs().amax(dim=0) > 1e-5).all()
            # The others count through the norm of the part alone.
            beside = torch.cosine_similarity(part[:, 2:], values[:, 2:], dim=1).abs()
            torch.testing.assert_close(beside, torch.ones_like(beside), atol=1e-3, rtol=0)


def test_under_autocast_it_is_the_same() -> None:
    image, text = encodings()
    objective = build(base={"kind": "contrastive"}, matryoshka={})
    expected = terms_of(objective, image, text, ROWS)["matryoshka"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = torch.zeros(4, 5)
        assert torch.equal(objective(scores, image, text, ROWS)["matryoshka"], expected)


def test_off_unless_asked_for_and_shares_that_meet_count_once() -> None:
    assert ObjectiveSettings().matryoshka is None
    objective = build(matryoshka={"widths": ["1/2", "1/4", "1/8", "1/16"]})
    assert objective.matryoshka is not None
    assert objective.matryoshka.widths == (12, 6, 3)
    assert "matryoshka" in objective.weights
    assert "matryoshka" not in build().weights


@pytest.mark.parametrize(
    ("model", "widths", "said"),
    [
        ({"dim": 8}, [8], "objective.matryoshka.widths: 8 is the whole embedding, which the base loss sees anyway"),
        ({"dim": 8}, [9], "objective.matryoshka.widths: width 9: the embedding has 8 numbers; give 1 to 8"),
        ({"dim": 8, "context_head": True}, [8], "width 8: the embedding has 24 numbers in 3 parts"),
        ({"dim": 8, "scorer": {"kind": "scan"}}, [4], "cuts embeddings, and model.scorer compares none"),
    ],
)  # fmt: skip
def test_refused_in_one_line(model: dict[str, Any], widths: list[int], said: str) -> None:
    with pytest.raises(CrossAlignError) as caught:
        build(ModelConfig.model_validate(model), matryoshka={"widths": widths})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "widths", ["[]", "[0]", "[-1/2]", "[1.5]", "[1/0]", "[half]", "[true]", "1/2", "[.nan]"]
)
def test_widths_that_are_no_numbers_are_refused_by_name(widths: str) -> None:
    with pytest.raises(CrossAlignError, match=r"objective\.matryoshka\.widths"):
        load_recipe("flickr8k-vse", [f"objective.matryoshka.widths={widths}"])


def test_a_recipe_with_fractions_is_written_and_read_back(tmp_path: Path) -> None:
    recipe = load_recipe("flickr8k-vse", ["objective.matryoshka={widths: [1/2, 64, 0.125]}"])
    assert recipe.objective.matryoshka is not None
    assert recipe.objective.matryoshka.widths == (0.5, 64, 0.125)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_the_enriched_similarity_of_cut_embeddings_matches_part_with_part() -> None:
    """What is cut of the keys of one side is cut of the fused vector of the other."""

    image, text = encodings()
    cut_image, cut_text = (truncate(one.embedding, 12, 3) for one in (image, text))
    parts = zip(image.embedding.split(DIM, 1), text.embedding.split(DIM, 1), strict=True)
    expected = sum(
        seen.norm(dim=1)[:, None]
        * told.norm(dim=1)
        * (F.normalize(seen[:, :4], dim=1) @ F.normalize(told[:, :4], dim=1).T)
        for seen, told in parts
    )
    torch.testing.assert_close(cut_image @ cut_text.T, expected)
