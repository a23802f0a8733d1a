"""Retrieval where a query has several relevant items: R@K, R-Precision and mAP@R, every tie against the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.evaluation.inputs import pieces
from crossalign.progress import tracked

__all__ = ["RelevanceTable", "cosines_in_blocks", "products_in_blocks", "relevance_table"]

Scores = Callable[[slice], Tensor]
"""Scores ``(b, N)`` of a run of queries with the whole gallery."""

_AT_ONCE = 2**21
"""Scores that exist at a time: 16 MB of float64, which stay near the processor."""
_ROUNDING = 1e-12
"""Products of equal vectors may differ by this much, relative to the largest score."""


@dataclass(frozen=True, eq=False)
class RelevanceTable:
    """What was found of each query's relevant items.

    R is the number of items that are relevant to a query.

    Attributes:
        first: ``(Q,)`` rank of the best relevant item, 1 the best; where it is beyond what is asked for, any larger
            number.
        r_precision: ``(Q,)`` share of relevant items among the first R.
        map_at_r: ``(Q,)`` mean over the first R places of the precision there, 0 at places without a relevant item
            (Musgrave et al., A Metric Learning Reality Check, ECCV 2020, section 3.2).
        queries: ``(Q,)`` positions of the queries that have a relevant item; the others are left out.
    """

    first: npt.NDArray[np.int64]
    r_precision: npt.NDArray[np.float64]
    map_at_r: npt.NDArray[np.float64]
    queries: npt.NDArray[np.int64]

    def recall(self, k: int) -> float:
        """Share of queries with a relevant item among the first K, in percent."""
        return 100 * float((self.first <= k).mean())

    def metrics(self, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        """``r1`` ... by K, ``r_precision`` and ``map_at_r``, in percent."""
        return {f"r{k}": self.recall(k) for k in ks} | {
            "r_precision": 100 * float(self.r_precision.mean()),
            "map_at_r": 100 * float(self.map_at_r.mean()),
        }


def relevance_table(
    scores: Scores,
    relevant: Sequence[npt.NDArray[np.int64]],
    gallery: int,
    *,
    sizes: npt.NDArray[np.int64] | None = None,
    left_out: npt.NDArray[np.int64] | None = None,
    most: int = 10,
    progress: bool = False,
) -> RelevanceTable:
    """Look for each query's relevant items, a run of queries at a time.

    The j-th best relevant item stands at j plus the number of irrelevant items that score at least as high: so every
    tie with an irrelevant item counts against the model.

    Args:
        scores: scores of a run of queries with the whole gallery.
        relevant: for each query the positions of its relevant items in the gallery, each once.
        gallery: N, items in the gallery.
        sizes: ``(Q,)`` R of each query, where more is relevant to it than the gallery holds; default: what it holds.
        left_out: ``(Q,)`` an item of the gallery that each query does not see, such as itself; -1: none.
        most: largest K of the recalls that will be asked for.

    Raises:
        CrossAlignError: no query has a relevant item, scores that are NaN.
    """
    counts = np.array([len(items) for items in relevant], np.int64)
    queries = np.flatnonzero(counts)
    if not len(queries):
        raise CrossAlignError(
            "retrieval: no query has a relevant item in the gallery; nothing can be measured"
        )
    total = counts if sizes is None else np.asarray(sizes, np.int64)
    first = np.empty(len(relevant), np.int64)
    precision, average = np.empty(len(relevant)), np.empty(len(relevant))
    parts = list(pieces(len(relevant), max(1, _AT_ONCE // gallery)))
    with tracked(parts, "retrieval", enabled=progress) as steps:
        for part in steps:
            given = scores(part)
            block = given.clone() if given.dtype == torch.float64 else given.double()
            low, high = (float(value) for value in block.aminmax())
            if math.isnan(low):
                raise CrossAlignError("retrieval: scores are NaN; check the model and its inputs")
            size, asked = counts[part], total[part]
            width = max(1, int(size.max()))
            index = torch.zeros(len(size), width, dtype=torch.long)
            real = torch.from_numpy(size)[:, None] > torch.arange(width)
            index[real] = torch.from_numpy(np.concatenate(relevant[part]).astype(np.int64))
            hidden = None if left_out is None else torch.from_numpy(left_out[part])
            slack = _ROUNDING * max(abs(low), abs(high))
            places = _places(block, index, real, hidden, max(most, int(asked.max())), slack).numpy()
            mask = real.numpy()
            within = mask & (places <= asked[:, None])
            hits = np.arange(1, width + 1)
            first[part] = places[:, 0]
            with np.errstate(invalid="ignore"):  # queries without a relevant item are dropped below
                precision[part] = within.sum(axis=1) / asked
                average[part] = np.where(within, hits / places, 0).sum(axis=1) / asked
    return RelevanceTable(first[queries], precision[queries], average[queries], queries)


def _places(
    block: Tensor, index: Tensor, real: Tensor, hidden: Tensor | None, most: int, slack: float
) -> Tensor:
    """Ranks ``(b, R)`` of the relevant items, ascending; too small ones only beyond R and K. ``block`` is used up."""
    index, real = index.to(block.device), real.to(block.device)
    found = block.gather(1, index).masked_fill(~real, -torch.inf).sort(dim=1, descending=True).values
    rows = torch.arange(len(block), device=block.device)
    block[rows[:, None].expand_as(index)[real], index[real]] = -torch.inf
    if hidden is not None:
        hidden = hidden.to(block.device)
        block[rows[hidden >= 0], hidden[hidden >= 0]] = -torch.inf
    # No more irrelevant items than these can matter to R-Precision, mAP@R and R@K.
    best = block.topk(min(most, block.shape[1]), dim=1).values.flip(1).contiguous()
    before = best.shape[1] - torch.searchsorted(best, (found - slack).contiguous())
    return (before + torch.arange(1, found.shape[1] + 1, device=block.device)).cpu()


def cosines_in_blocks(query: Tensor, gallery: Tensor) -> Scores:
    """Cosines of ``(Q, D)`` and ``(N, D)``, in float64; a vector of norm 0 has cosine 0 with everything."""
    return products_in_blocks(
        torch.nn.functional.normalize(query.double(), dim=-1),
        torch.nn.functional.normalize(gallery.double(), dim=-1),
    )


def products_in_blocks(query: Tensor, gallery: Tensor) -> Scores:
    """Inner products, in float64, the largest over the views of both sides.

    Args:
        query, gallery: ``(n, D)`` or ``(n, V, D)``.
    """
    asked, there = (values.double().reshape(len(values), -1, values.shape[-1]) for values in (query, gallery))

    def scores(part: slice) -> Tensor:
        best: Tensor | None = None
        # One view at a time: all of them would be as many times the scores.
        for own in asked[part].unbind(1):
            for view in there.unbind(1):
                products = own @ view.T
                best = products if best is None else torch.maximum(best, products)
        assert best is not None
        return best

    return scores
