"""How good retrieval is: exact ranks, recall, intervals, and whether a difference is more than chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossalign.lazy import loaded_on_first_use

if TYPE_CHECKING:
    from crossalign.evaluation.bootstrap import bootstrap_intervals
    from crossalign.evaluation.metrics import RankTable
    from crossalign.evaluation.ranks import Ranks, retrieval_ranks
    from crossalign.evaluation.results import ResultSubject, RetrievalResult
    from crossalign.evaluation.retrieval import evaluate_retrieval, recall
    from crossalign.evaluation.significance import Comparison, Difference, compare, compare_groups
    from crossalign.evaluation.tables import comparison_table, result_table

__all__ = [
    "Comparison",
    "Difference",
    "RankTable",
    "Ranks",
    "ResultSubject",
    "RetrievalResult",
    "bootstrap_intervals",
    "compare",
    "compare_groups",
    "comparison_table",
    "evaluate_retrieval",
    "recall",
    "result_table",
    "retrieval_ranks",
]

_HOMES = {
    "Comparison": "significance",
    "Difference": "significance",
    "RankTable": "metrics",
    "Ranks": "ranks",
    "ResultSubject": "results",
    "RetrievalResult": "results",
    "bootstrap_intervals": "bootstrap",
    "compare": "significance",
    "compare_groups": "significance",
    "comparison_table": "tables",
    "evaluate_retrieval": "retrieval",
    "recall": "retrieval",
    "result_table": "tables",
    "retrieval_ranks": "ranks",
}


# Comparing saved results needs no torch.
__getattr__ = loaded_on_first_use(__name__, _HOMES)
