"""The sections of a report as HTML; every text that comes from outside is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps, UnidentifiedImageError

from crossalign.errors import CrossAlignError
from crossalign.evaluation.grounding import GroundingResult
from crossalign.evaluation.report_charts import chart

if TYPE_CHECKING:
    from crossalign.evaluation.report import Command, Curve, Metric, MetricTable, Picture, QueryResult, Shown

__all__ = [
    "command_section",
    "curve_section",
    "data_address",
    "grounding_section",
    "head",
    "metric_section",
    "query_section",
    "section",
    "settings_section",
]

THUMBNAIL = 256


def head(title: str, subtitle: str, headline: Sequence[tuple[str, str, str]]) -> str:
    """The title with a few large figures under it."""
    figures = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(remark)}</small></dd></div>"
        for name, value, remark in headline
    )
    return "\n".join(
        [
            "<header>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else "",
            f'<dl class="headline">{figures}</dl>' if figures else "",
            "</header>",
        ]
    )


def section(title: str, *parts: str, note: str = "") -> str:
    """A part of the page under its own heading."""
    remark = f'<p class="note">{escape(note)}</p>' if note else ""
    return "\n".join(["<section>", f"<h2>{escape(title)}</h2>", remark, *parts, "</section>"])


# ----------------------------------------------------------------------------------------------- numbers


def metric_section(table: MetricTable | None) -> str:
    """Runs side by side; the best of each column is set in bold where there are several."""
    if table is None or not table.rows:
        return ""
    groups = "".join(
        f'<th scope="colgroup" colspan="{len(list(members))}" class="group">{escape(name)}</th>'
        for name, members in groupby(table.columns, key=lambda column: column.group)
    )
    starts = _group_starts(table)
    names = "".join(
        f'<th scope="col"{starts[index]}>{escape(column.name)}</th>'
        for index, column in enumerate(table.columns)
    )
    best = [_best(table, index) for index in range(len(table.columns))]
    rows = []
    for run, entries in table.rows.items():
        cells = "".join(
            f"<td{starts[index]}>{_number(entry, table.columns[index].decimals, best[index])}</td>"
            for index, entry in enumerate(entries)
        )
        rows.append(f'<tr><th scope="row">{escape(run)}</th>{cells}</tr>')
    return section(
        "Results",
        '<div class="scroll"><table class="metrics">',
        f'<thead><tr><td></td>{groups}</tr><tr><th scope="col">Run</th>{names}</tr></thead>',
        f"<tbody>{''.join(rows)}</tbody>",
        "</table></div>",
        note=table.note,
    )


def _group_starts(table: MetricTable) -> list[str]:
    """The class of cells at the left edge of each group of columns."""
    groups = [column.group for column in table.columns]
    return [' class="first"' if i == 0 or groups[i] != groups[i - 1] else "" for i in range(len(groups))]


def _best(table: MetricTable, index: int) -> float | None:
    values = [row[index].value for row in table.rows.values() if row[index] is not None]  # type: ignore[union-attr]
    if len(values) < 2:
        return None
    return max(values) if table.columns[index].higher_is_better else min(values)


def _number(metric: Metric | None, decimals: int, best: float | None) -> str:
    if metric is None:
        return '<span class="none">–</span>'
    text = f"{metric.value:.{decimals}f}"
    text = f"<b>{text}</b>" if metric.value == best else text
    if metric.low is None or metric.high is None:
        return text
    return f"{text}<small>{metric.low:.{decimals}f}–{metric.high:.{decimals}f}</small>"


# ------------------------------------------------------------------------------------------------ charts


def curve_section(curves: Sequence[Curve]) -> str:
    """The charts, two in a row where there is room."""
    if not curves:
        return ""
    figures = [
        f"<figure><figcaption>{escape(curve.title)}</figcaption>\n{chart(curve, f'chart-{number}')}</figure>"
        for number, curve in enumerate(curves)
    ]
    return section("Training", '<div class="charts">', *figures, "</div>")


def grounding_section(results: Mapping[str, GroundingResult]) -> str:
    """For each run a bar for all words and for each kind of word, with a mark where chance would be."""
    if not results:
        return ""
    blocks = []
    for run, result in results.items():
        low, high = result.interval
        bars = [_bar("all words", result.accuracy, result.chance, result.words, f"{low:.1f}–{high:.1f}")]
        bars += [
            _bar(kind, entry.accuracy, entry.chance, entry.words) for kind, entry in result.by_kind.items()
        ]
        blocks.append(f"<figure><figcaption>{escape(run)}</figcaption>{''.join(bars)}</figure>")
    return section(
        "From word to region",
        f'<div class="charts">{"".join(blocks)}</div>',
        note="How often the region most similar to a word shows what the word means, in percent. "
        "The upright mark is what a region drawn by lot would reach.",
    )


def _bar(name: str, accuracy: float, chance: float, words: int, interval: str = "") -> str:
    said = f"{name}: {accuracy:.1f} percent of {words} words, chance {chance:.1f}"
    small = f"<small>{escape(interval)}</small>" if interval else ""
    return (
        f'<div class="bar"><span>{escape(name)}<small>{words:,} words</small></span>'
        f'<div class="track" role="img" aria-label="{escape(said)}">'
        f'<i style="width: {accuracy:.2f}%"></i><b style="left: {chance:.2f}%"></b></div>'
        f'<span class="value">{accuracy:.1f}{small}</span></div>'
    )


# ---------------------------------------------------------------------------------------------- searches


def query_section(title: str, queries: Sequence[QueryResult]) -> str:
    """Queries with what was found; the right ones are framed."""
    if not queries:
        return ""
    return section(title, *(_query(query) for query in queries), note="What belongs to the query is framed.")


def _query(result: QueryResult) -> str:
    hits = [_hit(shown, str(place)) for place, shown in enumerate(result.found, start=1)]
    if result.missed is not None:
        hits.append(_hit(result.missed, "" if result.rank is None else str(result.rank), missed=True))
    rank = "" if result.rank is None else _rank(result.rank)
    texts = all(shown.picture is None for shown in result.found)
    return "\n".join(
        [
            '<article class="query">',
            f'<div class="asked">{_shown(result.query)}{rank}</div>',
            f'<ol class="{"texts" if texts else "pictures"}">{"".join(hits)}</ol>',
            "</article>",
        ]
    )


def _rank(rank: int) -> str:
    if rank == 1:
        return '<span class="rank good">found first</span>'
    return f'<span class="rank">right one at rank {rank:,}</span>'


def _hit(shown: Shown, place: str, *, missed: bool = False) -> str:
    name = "missed" if missed else ("right" if shown.right else "wrong")
    score = "" if shown.score is None else f"<span>{shown.score:.3f}</span>"
    sign = {"right": "✓ right", "wrong": "", "missed": "missed"}[name]
    tag = f"<em>{sign}</em>" if sign else ""
    return f'<li class="{name}">{_shown(shown)}<p class="place"><b>{place}</b>{tag}{score}</p></li>'


def _shown(shown: Shown) -> str:
    picture = ""
    if shown.picture is not None:
        label = escape(shown.text or _name(shown.picture))
        picture = f'<img src="{data_address(shown.picture)}" alt="{label}">'
    return picture + (f"<p>{escape(shown.text)}</p>" if shown.text else "")


def _name(picture: Picture) -> str:
    return "picture" if isinstance(picture, Image.Image) else Path(picture).name


def data_address(picture: Picture) -> str:
    """The picture, made small, as an address that holds its bytes."""
    try:
        image = picture if isinstance(picture, Image.Image) else Image.open(picture)
        image = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise CrossAlignError(f"{_name(picture)}: cannot be read as a picture ({error})") from None
    file = io.BytesIO()
    if max(image.size) <= THUMBNAIL // 2:
        kind = "png"
        image.save(file, "PNG", optimize=True)
    else:
        kind = "jpeg"
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        image.save(file, "JPEG", quality=84, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


# ------------------------------------------------------------------------------------------------- texts


def command_section(commands: Sequence[Command]) -> str:
    """What to try next, ready to be copied."""
    entries = [
        f'<div class="command"><p>{escape(command.purpose)}</p>'
        f"<pre><code>{escape(command.line)}</code></pre></div>"
        for command in commands
    ]
    return section("What to try next", *entries) if entries else ""


def settings_section(settings: Mapping[str, str]) -> str:
    """The settings of the runs, folded away."""
    entries = [
        f"<details><summary>{escape(name)}</summary><pre><code>{escape(text)}</code></pre></details>"
        for name, text in settings.items()
    ]
    return section("Settings", *entries) if entries else ""
