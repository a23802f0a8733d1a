"""A study's summary as a picture: one row a variant, or lines along an axis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossalign.errors import missing_extra
from crossalign.files import atomic_path

__all__ = ["draw_study"]

COLOURS = ("#2f6db3", "#c8553d", "#3d8f5f", "#8a5fb0", "#b58a1e", "#5b6770")
DASHES = ("--", ":", "-.")
INK, FAINT = "#333333", "#cccccc"
Row = Mapping[str, Any]


def draw_study(summary: Mapping[str, Any], path: str | Path) -> None:
    """Write the picture as PNG, whole or not at all: the mean of R@sum with its standard deviation over seeds, and
    every seed as a faint dot. Variants without a finished run take no room.

    Along an axis every recipe has its own line, variants without a place on it are dashed, and every further number
    of the study has a panel below.

    Raises:
        CrossAlignError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "report", "drawing a study") from None
    with rc_context({"font.size": 10, "axes.edgecolor": INK, "text.parse_math": False}):
        figure = Figure(figsize=(7.0, 4.0), layout="constrained")
        if summary["study"]["plot"] is not None:
            _lines(figure, summary)
        else:
            _rows(figure, summary)
        figure.suptitle(summary["study"]["title"], fontsize=11)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            figure.savefig(file, format="png", dpi=144, metadata={"Software": None})


def _rows(figure: Any, summary: Mapping[str, Any]) -> None:
    measured = _measured(summary, None)
    figure.set_size_inches(7.0, 1.3 + 0.34 * max(len(measured), 1))
    axes = figure.add_subplot()
    reach = _reach(summary, list(measured))
    for place, (name, value) in enumerate(measured.items()):
        colour = COLOURS[0] if name in reach else COLOURS[1]
        below = [place + 0.2] * len(value["values"])
        axes.plot(value["values"], below, ".", color=colour, alpha=0.45, markersize=5)
        axes.errorbar(value["mean"], place, xerr=value["sd"], fmt="o", color=colour, capsize=4, markersize=6)
    if not measured:
        axes.annotate("no run yet", (0.5, 0.5), xycoords="axes fraction", color="#888888", ha="center")
    for name, (first, last) in reach.items():
        ends = (first - 0.5, last + 0.5)
        axes.vlines(measured[name]["mean"], *ends, colors=COLOURS[0], linewidth=1, linestyles="--", alpha=0.6)
    axes.set_yticks(range(len(measured)), list(measured))
    axes.set_ylim(max(len(measured), 1) - 0.5, -0.5)
    axes.set_xlabel(f"R@sum, {summary['split']} split (mean ± standard deviation over seeds)")
    axes.margins(x=0.08)
    _plain(axes, "x")


def _reach(summary: Mapping[str, Any], shown: list[str]) -> dict[str, tuple[int, int]]:
    """For every variant that others are compared with, the first and last row that its line should reach."""
    rows: dict[str, list[int]] = {}
    for place, name in enumerate(shown):
        against = summary["variants"][name]["against"]
        # Of several that a variant is compared with, the first is the one it was made from.
        base = against[0]["variant"] if against else name
        if base in shown:
            rows.setdefault(base, [shown.index(base)]).append(place)
    return {name: (min(places), max(places)) for name, places in rows.items()}


def _lines(figure: Any, summary: Mapping[str, Any]) -> None:
    names = [name for name in summary["study"]["numbers"] if _measured(summary, name)]
    figure.set_size_inches(7.0, 3.2 + 1.9 * len(names))
    panels = figure.subplots(
        1 + len(names), 1, sharex=True, squeeze=False, height_ratios=[1.5, *[1.0] * len(names)]
    )[:, 0]
    for panel, name in zip(panels, [None, *names], strict=True):
        _panel(panel, summary, name)
    plot = summary["study"]["plot"]
    variants = summary["variants"]
    places = sorted({x for name in _measured(summary, None) if (x := variants[name]["x"]) is not None})
    if plot["log"]:
        panels[-1].set_xscale("log")
        panels[-1].minorticks_off()
    panels[-1].set_xticks(places, [f"{place:g}" for place in places])
    panels[-1].set_xlabel(plot["x"])
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(frameon=False, fontsize=9)


def _panel(axes: Any, summary: Mapping[str, Any], number: str | None) -> None:
    """R@sum, or a further number, of every variant against its place on the axis."""
    lines: dict[str, list[tuple[float, Row]]] = {}
    flat = 0
    for name, value in _measured(summary, number).items():
        row = summary["variants"][name]
        if row["x"] is not None:
            lines.setdefault(row["recipe"], []).append((row["x"], value))
            continue
        colour, dashes = COLOURS[-1], DASHES[flat % len(DASHES)]
        flat += 1
        axes.axhline(value["mean"], color=colour, linestyle=dashes, linewidth=1, label=name)
        if value["sd"] is not None:
            axes.axhspan(value["mean"] - value["sd"], value["mean"] + value["sd"], color=colour, alpha=0.08)
    for colour, (recipe, points) in zip(COLOURS * len(lines), lines.items(), strict=False):
        points.sort(key=lambda point: point[0])
        xs, values = zip(*points, strict=True)
        for x, value in points:
            axes.plot(
                [x] * len(value["values"]), value["values"], ".", color=colour, alpha=0.35, markersize=5
            )
        axes.errorbar(
            xs,
            [value["mean"] for value in values],
            yerr=[value["sd"] or 0.0 for value in values],
            fmt="o-",
            color=colour,
            capsize=4,
            markersize=5,
            label=recipe,
        )
    axes.set_ylabel(f"R@sum, {summary['split']}" if number is None else number.replace("_", " "))
    _plain(axes, "y")


def _measured(summary: Mapping[str, Any], number: str | None) -> dict[str, Row]:
    """R@sum, or a further number, of every variant that has it."""
    part, key = ("test", "rsum") if number is None else ("numbers", number)
    return {
        name: value
        for name, row in summary["variants"].items()
        if (value := row.get(part, {}).get(key)) is not None
    }


def _plain(axes: Any, grid: str) -> None:
    axes.grid(axis=grid, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
