"""The report page: complete, self-contained, escaped, and plain about what it cannot draw."""

from __future__ import annotations

import base64
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossalign.errors import CrossAlignError
from crossalign.evaluation.grounding import GroundingResult, KindResult
from crossalign.evaluation.report import (
    RETRIEVAL_COLUMNS,
    Command,
    Curve,
    Metric,
    MetricColumn,
    MetricTable,
    QueryResult,
    Report,
    Shown,
    render_report,
    write_report,
)
from crossalign.evaluation.report_charts import thinned

EVIL = """<script>alert("1")</script>&'"""
ESCAPED = "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#x27;"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and gathers tags, attributes and the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and data.strip():
            self.words.append(data.strip())


def picture(colour: tuple[int, int, int], side: int = 40) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def full_report(folder: Path) -> Report:
    photo = folder / "photo.jpg"
    picture((10, 200, 30), 600).save(photo)
    grounding = GroundingResult(
        61.25, 12.5, (58.0, 64.5), 100.0, 1234, 100, 0, "centre", {"colour": KindResult(70.5, 12.0, 800)}
    )
    metrics = {
        "first": {column.key: 10.0 + i for i, column in enumerate(RETRIEVAL_COLUMNS)},
        "second": {column.key: 11.0 + i for i, column in enumerate(RETRIEVAL_COLUMNS)} | {"other": 3.0},
    }
    return Report(
        title="Title of it",
        subtitle="Subtitle of it",
        metrics=MetricTable.of_runs(metrics, {"first": {"t2i_r1": (9.25, 10.75)}}, note="Note of it"),
        headline=[("Figure", "31.2", "remark")],
        curves=[
            Curve("Loss of it", "step", "loss", {"term one": [(0, 1.0), (1, 0.5)], "term two": []}),
            Curve("Validation of it", "epoch", "R@sum", {"first": [(i, i * i) for i in range(1000)]}),
        ],
        grounding={"run with regions": grounding},
        text_queries=[
            QueryResult(
                Shown(text="a red thing"),
                [Shown(picture((200, 0, 0)), right=True, score=0.5), Shown(photo)],
                rank=1,
            ),
            QueryResult(
                Shown(text="a blue thing"),
                [Shown(photo)],
                rank=17,
                missed=Shown(picture((0, 0, 200)), score=0.25),
            ),
        ],
        image_queries=[
            QueryResult(Shown(photo), [Shown(text="found caption", right=True), Shown(text="other")])
        ],
        settings={"recipe.yaml": "model:\n  dim: 8"},
        commands=[Command("Look further.", "crossalign search here 'a red thing'")],
    )


def test_every_part_is_there(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", full_report(tmp_path))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    text = "\n".join(Page(page).words)
    for part in [
        "Title of it",
        "Subtitle of it",
        "Figure",
        "31.2",
        "remark",
        "Note of it",
        "Text to image",
        "R@sum",
        "9.2–10.8",  # half to even
        "Loss of it",
        "term one",
        "term two",
        "Validation of it",
        "run with regions",
        "61.2",
        "58.0–64.5",
        "colour",
        "70.5",
        "1,234 words",
        "a red thing",
        "found first",
        "0.500",
        "right one at rank 17",
        "missed",
        "found caption",
        "recipe.yaml",
        "model:\n  dim: 8",
        "Look further.",
        "crossalign search here 'a red thing'",
    ]:
        assert part in text, part
    assert page.count("<svg") == 2


def test_needs_nothing_from_outside(tmp_path: Path) -> None:
    page = render_report(full_report(tmp_path))
    parsed = Page(page)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in parsed.tags}
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "data", "srcset"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:image/", "#")) or not value, (tag, value)
    assert "@import" not in page
    assert not [found for found in re.findall(r"url\(([^)]*)\)", page) if not found.startswith("#")]
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page


def test_pictures_are_embedded_small(tmp_path: Path) -> None:
    pages = Page(render_report(full_report(tmp_path)))
    pictures = []
    for tag, attributes in pages.tags:
        if tag == "img":
            address = attributes["src"] or ""
            kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", address).groups()  # type: ignore[union-attr]
            image = Image.open(io.BytesIO(base64.b64decode(data)))
            assert image.format == kind.upper()
            pictures.append((image.size, image.convert("RGB").getpixel((5, 5))))
            assert attributes["alt"]
    assert ((40, 40), (200, 0, 0)) in pictures
    assert ((40, 40), (0, 0, 200)) in pictures
    photos = [pixel for size, pixel in pictures if size == (256, 256)]
    assert len(photos) == 3
    assert all(np.abs(np.array(pixel) - (10, 200, 30)).max() < 8 for pixel in photos)


def test_the_right_hit_is_framed_and_the_missed_one_told(tmp_path: Path) -> None:
    page = render_report(full_report(tmp_path))
    classes = re.findall(r'<li class="(right|wrong|missed)">', page)
    assert classes == ["right", "wrong", "wrong", "missed", "right", "wrong"]


def test_everything_is_escaped() -> None:
    shown = Shown(picture((0, 0, 0)), text=EVIL, score=0.1)
    result = GroundingResult(50.0, 10.0, (40.0, 60.0), 100.0, 10, 5, 0, "centre", {EVIL: KindResult(1, 1, 1)})
    report = Report(
        title=EVIL,
        subtitle=EVIL,
        metrics=MetricTable({EVIL: [Metric(1.0)]}, [MetricColumn("key", EVIL, EVIL)], EVIL),
        headline=[(EVIL, EVIL, EVIL)],
        curves=[Curve(EVIL + r"\1 $x$", EVIL + "$_$", EVIL + "-->", {EVIL: [(0, 1), (1, 2)]})],
        grounding={EVIL: result},
        text_queries=[QueryResult(Shown(text=EVIL), [shown], missed=shown)],
        image_queries=[QueryResult(shown, [Shown(text=EVIL)])],
        settings={EVIL: EVIL},
        commands=[Command(EVIL, EVIL)],
    )
    page = render_report(report)
    assert "<script" not in page
    assert "alert(" not in page.replace(ESCAPED, "").replace("&lt;script&gt;alert(", "")
    assert page.count(ESCAPED) > 20
    parsed = Page(page)
    assert sum(word == EVIL for word in parsed.words) > 15


def test_empty_parts_are_left_out() -> None:
    page = render_report(Report(title="Bare"))
    parsed = Page(page)
    assert parsed.words == ["Bare", "Bare"]  # in the tab and on the page
    assert "section" not in {tag for tag, _ in parsed.tags}


def test_same_report_same_bytes(tmp_path: Path) -> None:
    assert render_report(full_report(tmp_path)) == render_report(full_report(tmp_path))


def test_best_of_each_column() -> None:
    columns = [
        MetricColumn("up", "up"),
        MetricColumn("down", "down", higher_is_better=False),
        MetricColumn("x", "x"),
    ]
    rows = {
        "a": [Metric(1.0), Metric(3.0), None],
        "b": [Metric(2.0), Metric(4.0), Metric(7.0)],
        "c": [Metric(2.0), Metric(3.5), None],
    }
    page = render_report(Report("t", metrics=MetricTable(rows, columns)))
    assert re.findall(r"<b>([\d.]+)</b>", page) == ["3.0", "2.0", "2.0"]
    assert page.count("–") == 2  # two numbers that there are not


def test_table_from_runs() -> None:
    table = MetricTable.of_runs({"a": {"rsum": 100.0, "unknown": 1.0}}, {"a": {"rsum": (90.0, 110.0)}})
    assert table.rows["a"] == [*[None] * 10, Metric(100.0, 90.0, 110.0)]
    with pytest.raises(ValueError, match="run 'a' has 1 entries for 11 columns"):
        MetricTable({"a": [None]})


def test_thinning_averages_neighbours() -> None:
    points = [(float(i), float(i % 2)) for i in range(1000)]
    found = thinned(points, 100)
    assert found == [(10 * i + 4.5, 0.5) for i in range(100)]
    assert thinned(points[:7], 100) == points[:7]
    assert thinned([], 100) == []


def test_charts_take_the_colours_of_the_page(tmp_path: Path) -> None:
    page = render_report(full_report(tmp_path))
    charts = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert "var(--series-1)" in charts[0]
    assert "currentColor" in charts[0]
    for chart in charts:
        assert not re.search(r"(stroke|fill): #", chart)
    identities = re.findall(r' id="([^"]+)"', page)
    assert len(identities) == len(set(identities))
    used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page)
    assert {name for pair in used for name in pair if name} <= set(identities)
    assert used


def test_unreadable_picture(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    for picture_path in (broken, tmp_path / "absent.png"):
        report = Report("t", text_queries=[QueryResult(Shown(text="q"), [Shown(picture_path)])])
        with pytest.raises(CrossAlignError, match=f"{picture_path.name}: cannot be read"):
            write_report(tmp_path / "report.html", report)
    assert not (tmp_path / "report.html").exists()


def test_curves_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CrossAlignError, match=r"pip install 'crossalign\[report\]'"):
        render_report(full_report(tmp_path))
