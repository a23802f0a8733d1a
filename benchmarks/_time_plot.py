"""The picture of a retrieval-time result: seconds a query over the gallery's size, and accuracy over seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossalign.errors import missing_extra
from crossalign.files import atomic_path
from crossalign.study.plot import COLOURS, FAINT, INK

__all__ = ["draw_times"]

SHADES = {"product": COLOURS[5], "exact index": COLOURS[4], "approximate index": COLOURS[0]}
RIVALS = (COLOURS[1], COLOURS[3], COLOURS[2])
LINE_APART = 0.052
"""Share of an axis that a line of text takes."""
Method = Mapping[str, Any]


def draw_times(result: Mapping[str, Any], path: str | Path) -> None:
    """Write the picture as PNG, whole or not at all; without any accuracy it has the left panel alone.

    Raises:
        CrossAlignError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "report", "drawing times") from None
    known = [method for method in result["methods"] if method["rsum"] is not None]
    with rc_context({"font.size": 10, "axes.edgecolor": INK, "text.parse_math": False}):
        figure = Figure(figsize=(13.0, 5.2) if known else (7.4, 5.2), layout="constrained")
        panels = figure.subplots(
            1, 2 if known else 1, squeeze=False, width_ratios=[1.2, 1.0][: 1 + bool(known)]
        )[0]
        _times(panels[0], result)
        if known:
            _accuracy(panels[1], result, known)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            figure.savefig(file, format="png", dpi=144, metadata={"Software": None})


def _colour(result: Mapping[str, Any], method: Method) -> str:
    if method["scorer"] is None:
        return SHADES[method["kind"]]
    return RIVALS[result["scorers"].index(method["scorer"]) % len(RIVALS)]


def _times(axes: Any, result: Mapping[str, Any]) -> None:
    drawn: list[tuple[str, str]] = []
    ends = []
    for method in result["methods"]:
        # Independent models of one width take the same time: the first stands for all of them.
        same = (method["kind"], f"{method['scorer']} {method['shape']}")
        if same in drawn or not method["points"]:
            continue
        drawn.append(same)
        colour = _colour(result, method)
        sizes = [point["size"] for point in method["points"]]
        style = "--" if method["kind"] == "re-rank" else "-"
        axes.fill_between(
            sizes,
            [point["p25_s"] for point in method["points"]],
            [point["p75_s"] for point in method["points"]],
            color=colour,
            alpha=0.12,
            linewidth=0,
        )
        medians = [point["median_s"] for point in method["points"]]
        axes.plot(sizes, medians, style, marker="o", markersize=4, color=colour)
        together = [point for point in method["points"] if point.get("together_s") is not None]
        axes.plot(
            [point["size"] for point in together],
            [point["together_s"] for point in together],
            ":",
            linewidth=1,
            color=colour,
        )
        ends.append((sizes[-1], medians[-1], _name(method), colour))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("images in the gallery")
    axes.set_ylabel("seconds per text query, its encoding left out")
    threads = "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"
    axes.set_title(
        f"One query at a time, {threads} (dotted: {result['together']} together; shaded: quartiles)",
        fontsize=10,
    )
    sizes = sorted({point["size"] for method in result["methods"] for point in method["points"]})
    axes.set_xlim(sizes[0] * 0.8, sizes[-1] * (sizes[-1] / sizes[0]) ** 0.75)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.tick_params(axis="x", labelsize=9)
    axes.yaxis.set_major_formatter(_seconds)
    axes.minorticks_off()
    _plain(axes)
    _labels(axes, ends)


def _accuracy(axes: Any, result: Mapping[str, Any], known: Sequence[Method]) -> None:
    ends, points = [], []
    for method in known:
        point = next((at for at in method["points"] if at["size"] == result["split"]["images"]), None)
        if point is None or method["kind"] in ("product", "exact index"):
            continue
        points.append(point)
        colour = _colour(result, method)
        waiting = point["median_s"] + _encoding(result, method)
        axes.plot([point["median_s"], waiting], [method["rsum"]] * 2, color=colour, linewidth=0.8, alpha=0.6)
        axes.plot(waiting, method["rsum"], "|", color=colour, markersize=11, markeredgewidth=1.6)
        marker = "D" if method["kind"] == "re-rank" else "o"
        axes.errorbar(
            point["median_s"],
            method["rsum"],
            xerr=[[point["median_s"] - point["p25_s"]], [point["p75_s"] - point["median_s"]]],
            fmt=marker,
            color=colour,
            markersize=6,
            elinewidth=1,
        )
        name = method["model"] if method["scorer"] is None else _name(method)
        ends.append((max(point["p75_s"], waiting), method["rsum"], f"{name}  {method['rsum']:.1f}", colour))
    axes.set_xscale("log")
    low, high = min(point["p25_s"] for point in points), max(end[0] for end in ends)
    axes.set_xlim(low / 2, high * max(100.0, (high / low) ** 0.8))
    axes.margins(y=0.15)
    axes.xaxis.set_major_formatter(_seconds)
    axes.minorticks_off()
    axes.set_xlabel(f"seconds per text query among {result['split']['images']:,} images")
    axes.set_ylabel("R@sum, test split, both directions")
    axes.set_title("Accuracy and time (bar: with the query's encoding)", fontsize=10)
    _plain(axes)
    _labels(axes, ends)


def _encoding(result: Mapping[str, Any], method: Method) -> float:
    """Seconds that a text takes before it can be searched for: of every model that reads it."""
    encoding = result["encoding_a_query"]
    readers = {method["model"], method["scorer"]} - {None}
    return float(sum(encoding[name]["median_s"] for name in readers))


def _seconds(value: float, _: object = None) -> str:
    """Powers of ten in a unit that suits them."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= 0.999 * unit:
            return f"{value / unit:g} {name}"
    return f"{value:g} s"


def _name(method: Method) -> str:
    if method["kind"] == "scorer":
        return f"{method['scorer']}, every image"
    if method["kind"] == "re-rank":
        return f"{method['scorer']} on the best {method['top']} of {method['model']}"
    width = method["shape"]
    return {
        "product": f"matrix product ({width})",
        "exact index": f"exact index ({width})",
        "approximate index": f"approximate index ({width})",
    }[method["kind"]]


def _labels(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """A name beside each end, moved up or down where another stands too near."""
    axes.figure.canvas.draw_idle()
    axes.autoscale_view()
    to_share = axes.transScale + axes.transLimits
    placed = sorted((to_share.transform((x, y))[1], x, y, name, colour) for x, y, name, colour in ends)
    heights = [share for share, *_ in placed]
    for _ in range(200):
        for lower in range(len(heights) - 1):
            overlap = LINE_APART - (heights[lower + 1] - heights[lower])
            if overlap > 1e-6:
                heights[lower] -= overlap / 2
                heights[lower + 1] += overlap / 2
    for height, (_, x, y, name, colour) in zip(heights, placed, strict=True):
        share = to_share.transform((x, y))
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(share[0] + 0.035, height),
            textcoords="axes fraction",
            color=colour,
            fontsize=9,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "shrinkB": 3},
        )


def _plain(axes: Any) -> None:
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
