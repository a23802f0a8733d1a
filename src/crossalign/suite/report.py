"""What was measured of one model as a page, and as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from rich.table import Table

from crossalign.evaluation.report import html_page
from crossalign.evaluation.report_sections import head, section
from crossalign.suite.result import Measure, SuiteResult

__all__ = ["suite_page", "suite_tables", "told_training"]

_LARGE = {
    "retrieval.rsum": "R@sum",
    "captions.r1": "caption→caption R@1",
    "sts.average": "STS average",
    "judgements_expert.tau": "experts, tau-c",
    "eccv.eccv_t2i_map_at_r": "ECCV text→image mAP@R",
}


_STYLE = ".metrics thead th:first-child { text-align: left; }\n.metrics thead th { padding-top: 8px; }\n"


def suite_page(result: SuiteResult) -> str:
    """One self-contained HTML document."""
    large = [
        (name, f"{result.metrics[key]:.1f}", "") for key, name in _LARGE.items() if key in result.metrics
    ]
    body = [head(f"Evaluation of {result.name}", told_training(result), large)]
    body += [section(part.title, _table(part), note=part.note) for part in result.measures]
    if result.skipped:
        items = "".join(
            f"<li><b>{escape(part.title)}</b>: {escape(part.reason)}</li>" for part in result.skipped
        )
        body.append(section("Left out", f"<ul>{items}</ul>"))
    body.append(
        section("Command", f"<pre><code>{escape(result.command)}</code></pre>") if result.command else ""
    )
    return html_page(f"Evaluation of {result.name}", body, _STYLE)


def suite_tables(result: SuiteResult) -> Iterator[Table]:
    """A table for each part."""
    for part in result.measures:
        table = Table(title=part.title, title_justify="left")
        for number, name in enumerate(part.header):
            table.add_column(name, justify="left" if number == 0 else "right")
        for row in part.rows:
            table.add_row(*row)
        yield table


def told_training(result: SuiteResult) -> str:
    """What the model was trained on and measured on, in words."""
    measured = (
        f"measured on {result.collection}, split {result.split}" if result.collection else "no collection"
    )
    if result.trained_on is None:
        return f"{measured}; what it was trained on is not known"
    if result.transfer:
        return f"{measured}; zero-shot transfer: trained on {result.trained_on}"
    return (
        f"{measured}; trained on {result.trained_on}"
        if result.collection
        else f"trained on {result.trained_on}"
    )


def _table(part: Measure) -> str:
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in part.header)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in part.rows
    )
    table = f"<thead><tr>{names}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="scroll"><table class="metrics">{table}</table></div>'
