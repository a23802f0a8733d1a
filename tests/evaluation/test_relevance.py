"""Retrieval with several relevant items against plain sorting, by hand, and with ties."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from plain_relevance import measures, ranking

from crossalign.errors import CrossAlignError
from crossalign.evaluation import relevance
from crossalign.evaluation.relevance import cosines_in_blocks, products_in_blocks, relevance_table


def table_of(scores: torch.Tensor, relevant: list[list[int]], **options: object) -> relevance.RelevanceTable:
    return relevance_table(
        lambda part: scores[part],
        [np.array(items, np.int64) for items in relevant],
        scores.shape[1],
        **options,
    )


def test_a_case_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5], [0.1, 0.2, 0.3, 0.4, 0.5]])
    table = table_of(scores, [[1, 3], [4, 3]])
    assert table.first.tolist() == [2, 1]
    assert table.r_precision.tolist() == [0.5, 1.0]
    # Place 1 is wrong, place 2 is right with precision 1/2: (0 + 1/2) / 2.
    assert table.map_at_r.tolist() == [0.25, 1.0]
    assert table.metrics((1, 2)) == {"r1": 50.0, "r2": 100.0, "r_precision": 75.0, "map_at_r": 62.5}


@pytest.mark.parametrize("levels", [0, 4])
@pytest.mark.parametrize("at_once", [1, 100, 2**24])
def test_it_is_what_sorting_gives(levels: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relevance, "_AT_ONCE", at_once)
    random = np.random.default_rng(levels)
    scores = random.normal(size=(23, 31))
    if levels:
        scores = np.round(scores)  # many ties
    relevant = [sorted(random.choice(31, random.integers(0, 9), replace=False).tolist()) for _ in range(23)]
    hidden = np.array([-1 if number % 2 else (number * 7) % 31 for number in range(23)])
    relevant = [
        [item for item in items if item != hide] for items, hide in zip(relevant, hidden, strict=True)
    ]
    sizes = np.array([len(items) + number % 3 for number, items in enumerate(relevant)])
    table = table_of(torch.from_numpy(scores), relevant, sizes=sizes, left_out=hidden, most=12)
    asked = [number for number, items in enumerate(relevant) if items]
    assert table.queries.tolist() == asked
    for row, number in enumerate(asked):
        own = set(relevant[number])
        first, precision, average = measures(
            ranking(scores[number], own, int(hidden[number])), own, int(sizes[number])
        )
        assert table.first[row] == first or min(table.first[row], first) > 12
        assert table.r_precision[row] == pytest.approx(precision, abs=1e-12)
        assert table.map_at_r[row] == pytest.approx(average, abs=1e-12)


def test_one_vector_for_everything_finds_nothing() -> None:
    embeddings = torch.randn(1, 33).expand(40, 33) * torch.linspace(1, 3, 40)[:, None]
    relevant = [np.array([(number + 1) % 40]) for number in range(40)]
    table = relevance_table(
        cosines_in_blocks(embeddings, embeddings), relevant, 40, left_out=np.arange(40), most=10
    )
    assert table.metrics() == {"r1": 0, "r5": 0, "r10": 0, "r_precision": 0, "map_at_r": 0}


def test_products_take_the_best_view_of_both_sides() -> None:
    query, gallery = torch.randn(5, 3, 8), torch.randn(7, 2, 8)
    plain = [[max(float(a.double() @ b.double()) for a in q for b in g) for g in gallery] for q in query]
    assert torch.allclose(
        products_in_blocks(query, gallery)(slice(0, 5)), torch.tensor(plain, dtype=torch.float64)
    )
    one = products_in_blocks(query[:, 0], gallery[:, 0])(slice(2, 4))
    assert torch.allclose(one, query[2:4, 0].double() @ gallery[:, 0].double().T)


def test_refusals() -> None:
    with pytest.raises(CrossAlignError, match="no query has a relevant item"):
        table_of(torch.zeros(2, 3), [[], []])
    with pytest.raises(CrossAlignError, match="NaN"):
        table_of(torch.full((1, 3), torch.nan), [[1]])
