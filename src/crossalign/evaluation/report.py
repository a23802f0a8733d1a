"""A report of one or several runs as a single web page: numbers, curves, pictures and what to try next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path

from PIL import Image

from crossalign.evaluation import report_sections as sections
from crossalign.evaluation.grounding import GroundingResult
from crossalign.files import write_text

__all__ = [
    "RETRIEVAL_COLUMNS",
    "Command",
    "Curve",
    "Metric",
    "MetricColumn",
    "MetricTable",
    "Picture",
    "QueryResult",
    "Report",
    "Shown",
    "html_page",
    "render_report",
    "write_report",
]

Picture = Path | str | Image.Image


@dataclass(frozen=True)
class Metric:
    """A number, with the interval it is known to where that was estimated."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class MetricColumn:
    """One column of the summary: columns of one group stand under one heading.

    Attributes:
        key: the metric's name where it is computed, such as ``t2i_r1``.
        name, group: as it is headed here.
    """

    key: str
    name: str
    group: str = ""
    higher_is_better: bool = True
    decimals: int = 1


def _direction(way: str, group: str) -> tuple[MetricColumn, ...]:
    return (
        *(MetricColumn(f"{way}_r{k}", f"R@{k}", group) for k in (1, 5, 10)),
        MetricColumn(f"{way}_medr", "median rank", group, higher_is_better=False),
        MetricColumn(f"{way}_meanr", "mean rank", group, higher_is_better=False),
    )


RETRIEVAL_COLUMNS = (
    *_direction("t2i", "Text to image"),
    *_direction("i2t", "Image to text"),
    MetricColumn("rsum", "R@sum", "Both"),
)


@dataclass(frozen=True)
class MetricTable:
    """Runs side by side: one row a run with one entry for every column; None where a run has no such number.

    Raises:
        ValueError: a row has another number of entries than there are columns.
    """

    rows: Mapping[str, Sequence[Metric | None]]
    columns: Sequence[MetricColumn] = RETRIEVAL_COLUMNS
    note: str = ""

    def __post_init__(self) -> None:
        for run, row in self.rows.items():
            if len(row) != len(self.columns):
                raise ValueError(f"run '{run}' has {len(row)} entries for {len(self.columns)} columns")

    @classmethod
    def of_runs(
        cls,
        metrics: Mapping[str, Mapping[str, float]],
        intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
        *,
        columns: Sequence[MetricColumn] = RETRIEVAL_COLUMNS,
        note: str = "",
    ) -> MetricTable:
        """A table from each run's metrics and intervals by key; keys without a column are left out."""
        rows: dict[str, list[Metric | None]] = {}
        for run, values in metrics.items():
            known = (intervals or {}).get(run, {})
            rows[run] = [
                Metric(values[column.key], *known.get(column.key, (None, None)))
                if column.key in values
                else None
                for column in columns
            ]
        return cls(rows, columns, note)


@dataclass(frozen=True)
class Curve:
    """One chart: for each named line its points (x, y), such as the step and the loss."""

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Shown:
    """One thing that a search found: a picture, a text, or both; ``right`` when it belongs to the query."""

    picture: Picture | None = None
    text: str = ""
    right: bool = False
    score: float | None = None


@dataclass(frozen=True)
class QueryResult:
    """A query and what was found for it, best first.

    Attributes:
        query: the text or picture that was searched with.
        found: the best hits.
        rank: where the first right one stands, 1 the best; None leaves it unsaid.
        missed: the right one where it is not among ``found``.
    """

    query: Shown
    found: Sequence[Shown]
    rank: int | None = None
    missed: Shown | None = None


@dataclass(frozen=True)
class Command:
    """A command line to try next, and what it is good for."""

    purpose: str
    line: str


@dataclass(frozen=True)
class Report:
    """Everything a report shows; parts that are empty are left out.

    Attributes:
        title, subtitle: of the page.
        metrics: the summary table.
        headline: a few figures for the top: what each is, its value as text, and a remark.
        curves: charts of the training.
        grounding: by run, word-to-region accuracy.
        text_queries, image_queries: examples of searches.
        settings: by name ("recipe.yaml"), the full text of the settings.
        commands: what to try next.
    """

    title: str
    subtitle: str = ""
    metrics: MetricTable | None = None
    headline: Sequence[tuple[str, str, str]] = ()
    curves: Sequence[Curve] = ()
    grounding: Mapping[str, GroundingResult] = field(default_factory=dict)
    text_queries: Sequence[QueryResult] = ()
    image_queries: Sequence[QueryResult] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[Command] = ()


def write_report(path: str | Path, report: Report) -> None:
    """Write the report as one self-contained HTML file that needs neither network nor scripts.

    Raises:
        CrossAlignError: a picture cannot be read, or there are curves and matplotlib is not installed.
    """
    write_text(path, render_report(report))


def render_report(report: Report) -> str:
    """The report as one HTML document."""
    body = [
        sections.head(report.title, report.subtitle, report.headline),
        sections.metric_section(report.metrics),
        sections.query_section("Searching with text", report.text_queries),
        sections.query_section("Searching with a picture", report.image_queries),
        sections.grounding_section(report.grounding),
        sections.curve_section(report.curves),
        sections.command_section(report.commands),
        sections.settings_section(report.settings),
    ]
    return html_page(report.title, body)


def html_page(title: str, body: Sequence[str], style: str = "") -> str:
    """One self-contained HTML document in the style of the reports.

    Args:
        body: its parts as HTML; empty ones are left out.
        style: more rules for the style sheet.
    """
    sheet = (files("crossalign.evaluation") / "report.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{sheet}{style}</style>",
            "</head>",
            "<body>",
            "<main>",
            *(part for part in body if part),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )
