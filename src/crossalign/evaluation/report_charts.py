"""Charts as inline SVG that take their colours and their font from the page around them."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from crossalign.errors import missing_extra

if TYPE_CHECKING:
    from crossalign.evaluation.report import Curve

__all__ = ["SERIES", "chart", "thinned"]

SERIES = 6
POINTS = 300
# Drawn in colours that nothing else has, then replaced by those of the page, for light and for dark.
_INK = "#010203"
_LINES = tuple(f"#0a0b{10 + index:02x}" for index in range(SERIES))


def thinned(points: Sequence[tuple[float, float]], count: int = POINTS) -> list[tuple[float, float]]:
    """At most ``count`` points: neighbours are averaged where there are more."""
    if len(points) <= count:
        return list(points)
    groups = np.array_split(np.asarray(points, dtype=np.float64), count)
    return [(float(x), float(y)) for x, y in (group.mean(axis=0) for group in groups)]


def chart(curve: Curve, identity: str) -> str:
    """A chart with its legend as HTML; ``identity`` keeps the charts of one page apart.

    Raises:
        CrossAlignError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise missing_extra("matplotlib", "report", "drawing training curves") from None
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": identity, "font.size": 10}):
        figure = Figure(figsize=(5.4, 3.1))
        axes = figure.add_subplot()
        for index, points in enumerate(curve.lines.values()):
            xs, ys = zip(*thinned(points), strict=True) if points else ((), ())
            marker = "o" if len(xs) <= 40 else ""
            axes.plot(xs, ys, color=_LINES[index % SERIES], linewidth=2, marker=marker, markersize=4)
        axes.set_xlabel(curve.x_label, color=_INK, parse_math=False)
        axes.set_ylabel(curve.y_label, color=_INK, parse_math=False)
        axes.grid(axis="y", color=_INK, alpha=0.13, linewidth=1)
        axes.set_axisbelow(True)
        axes.tick_params(colors=_INK, length=0, pad=6)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(_INK)
            spine.set_alpha(0.35)
        axes.margins(x=0.02)
        if all(float(x).is_integer() for points in curve.lines.values() for x, _ in points):
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    return f"{_legend(curve.lines)}\n{_at_home(file.getvalue(), curve.title, identity)}"


def _legend(lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    entries = [
        f'<li><i style="background: var(--series-{index % SERIES + 1})"></i>{escape(name)}</li>'
        for index, name in enumerate(lines)
    ]
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _at_home(svg: str, title: str, identity: str) -> str:
    """The drawing without its file header, in the page's colours and font, with ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', _opening(title), svg, count=1)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\1{identity}-", svg)
    svg = svg.replace(_INK, "currentColor")
    for index, colour in enumerate(_LINES, start=1):
        svg = svg.replace(colour, f"var(--series-{index})")
    return svg


def _opening(title: str) -> str:
    label = escape(title).replace("\\", "\\\\")
    return (
        '<svg xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg" '
        rf'viewBox="\1" role="img" aria-label="{label}">'
    )
