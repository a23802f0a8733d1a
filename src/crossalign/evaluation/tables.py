"""Results and comparisons as tables for a terminal."""

from __future__ import annotations

from rich.table import Table

from crossalign.evaluation.results import RetrievalResult
from crossalign.evaluation.significance import Comparison, significance_mark

__all__ = ["comparison_table", "metric_label", "result_table"]

_WAYS = {"i2t": "image→text", "t2i": "text→image"}
_KINDS = {"medr": "median rank", "meanr": "mean rank"}


def metric_label(name: str) -> str:
    """A metric's name in words: ``image→text R@1`` for ``i2t_r1``."""
    way, _, kind = name.partition("_")
    if way not in _WAYS:
        return {"rsum": "R@sum"}.get(name, name)
    return f"{_WAYS[way]} {_KINDS.get(kind) or f'R@{kind[1:]}'}"


def result_table(result: RetrievalResult) -> Table:
    """Every metric of one evaluation with its bootstrap interval."""
    width = "" if result.width is None else f"width {result.width}"
    elsewhere = f"trained on {result.trained_on}" if result.transfer else ""
    averaged = "" if result.ensemble is None else result.ensemble.told()
    counts = f"{len(result.table.i2t)} images, {len(result.table.t2i)} captions"
    table = Table(
        title=_title(
            result.collection,
            result.split,
            result.protocol,
            width,
            averaged,
            result.reranked,
            result.corrected,
            elsewhere,
        ),
        caption=f"{counts}; intervals: bootstrap over images",
    )
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column(f"{100 * result.confidence:g}% interval", justify="right")
    for name, value in result.metrics.items():
        low, high = result.intervals[name]
        table.add_row(metric_label(name), f"{value:.2f}", f"{low:.2f} – {high:.2f}")
    return table


def comparison_table(comparison: Comparison) -> Table:
    """The differences of two groups of runs, each marked by how surely it is not chance."""
    runs = len(comparison.baseline_runs), len(comparison.candidate_runs)
    table = Table(
        title=_title(comparison.collection, comparison.split, comparison.protocol, _reranked(comparison)),
        caption=(
            f"{comparison.images} images, {comparison.captions} captions; {runs[0]} against {runs[1]}"
            f" run{'s' if max(runs) > 1 else ''}; paired over images, {comparison.resamples} resamples;"
            " * p < 0.05, ** p < 0.01, *** p < 0.001"
        ),
    )
    table.add_column("metric")
    table.add_column("baseline", justify="right")
    table.add_column("candidate", justify="right")
    table.add_column("difference", justify="right")
    table.add_column(f"{100 * comparison.confidence:g}% interval", justify="right")
    table.add_column("p", justify="right")
    for row in comparison.differences:
        table.add_row(
            metric_label(row.metric),
            _with_spread(row.baseline, row.baseline_sd),
            _with_spread(row.candidate, row.candidate_sd),
            f"{row.difference:+.2f}{significance_mark(row.p_value):<3}",
            f"{row.low:+.2f} – {row.high:+.2f}",
            f"{row.p_value:.2g}",
        )
    return table


def _title(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _reranked(comparison: Comparison) -> str:
    """Which of both groups a second model has put into order, and which model."""
    told = comparison.baseline_reranked, comparison.candidate_reranked
    if told[0] == told[1]:
        return told[0]
    named = zip(("baseline", "candidate"), told, strict=True)
    return "; ".join(f"{name}: {words}" for name, words in named if words)


def _with_spread(mean: float, deviation: float | None) -> str:
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"
