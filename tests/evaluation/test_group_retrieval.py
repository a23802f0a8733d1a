"""Retrieval within groups against plain sorting, with query and gallery apart and together."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from plain_relevance import measures, ranking

from crossalign.errors import CrossAlignError
from crossalign.evaluation.group_retrieval import group_retrieval


@pytest.mark.parametrize("apart", [False, True])
def test_it_is_what_sorting_gives(apart: bool) -> None:
    random = np.random.default_rng(3)
    group = random.integers(0, 6, 40)
    group[7] = 99  # alone
    embeddings = torch.from_numpy(random.normal(size=(40, 5)))
    query = random.permutation(40)[:22] if apart else np.arange(40)
    gallery = random.permutation(40)[:30] if apart else np.arange(40)
    table = group_retrieval(
        embeddings, group, query=query if apart else None, gallery=gallery if apart else None, most=40
    )
    unit = (embeddings / embeddings.norm(dim=1, keepdim=True)).numpy()
    cosines = unit @ unit.T
    row = 0
    for number, item in enumerate(query):
        relevant = {
            place for place, other in enumerate(gallery) if group[other] == group[item] and other != item
        }
        if not relevant:
            continue
        itself = np.flatnonzero(gallery == item)
        order = ranking(cosines[item][gallery], relevant, int(itself[0]) if len(itself) else -1)
        first, precision, average = measures(order, relevant)
        assert table.queries[row] == number
        assert table.first[row] == first
        assert table.r_precision[row] == pytest.approx(precision)
        assert table.map_at_r[row] == pytest.approx(average)
        row += 1
    assert row == len(table.queries)
    assert 7 not in query[table.queries]


def test_captions_of_an_image_by_hand() -> None:
    # Two images with two captions each; the second caption of the second image looks like those of the first.
    embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.95, 0.05]])
    table = group_retrieval(embeddings, [0, 0, 1, 1])
    assert table.first.tolist() == [2, 2, 2, 3]
    assert table.metrics()["r1"] == 0
    assert table.metrics()["r5"] == 100


def test_refusals() -> None:
    with pytest.raises(CrossAlignError, match="no query has a relevant item"):
        group_retrieval(torch.randn(3, 2), [0, 1, 2])
    with pytest.raises(CrossAlignError, match="one group each"):
        group_retrieval(torch.randn(3, 2), [0, 1])
