"""The contact sheet shows every hit, in its own proportions, in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossalign.errors import CrossAlignError
from crossalign.search import Hit, contact_sheet, save_contact_sheet


def _hit(rank: int, path: Path, missing: bool = False) -> Hit:
    return Hit(rank, 1.0 / rank, path.name, path, 1, 1, missing)


def _bounds(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what has exactly this colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_photos_keep_their_proportions_and_stand_in_order(tmp_path: Path) -> None:
    colours = {"wide": (255, 0, 0), "tall": (0, 255, 0), "small": (0, 0, 255)}
    sizes = {"wide": (600, 300), "tall": (100, 400), "small": (20, 20)}
    hits = []
    for rank, (name, colour) in enumerate(colours.items(), start=1):
        Image.new("RGB", sizes[name], colour).save(tmp_path / f"{name}.png")
        hits.append(_hit(rank, tmp_path / f"{name}.png"))
    sheet = contact_sheet(hits, "three pictures", columns=2)
    boxes = {name: _bounds(sheet, colour) for name, colour in colours.items()}
    for name, (left, top, right, bottom) in boxes.items():
        assert (right - left) / (bottom - top) == pytest.approx(sizes[name][0] / sizes[name][1], rel=0.02)
    assert boxes["wide"][2] < boxes["tall"][0]
    assert boxes["small"][1] > boxes["tall"][3]
    # A small photo is not blown up to mush.
    assert boxes["small"][2] - boxes["small"][0] == 60


def test_missing_and_unreadable_photos_get_a_frame_that_differs_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    missing = contact_sheet([_hit(1, tmp_path / "gone.png", missing=True)], "query")
    unreadable = contact_sheet([_hit(1, tmp_path / "text.png")], "query")
    assert missing.size == unreadable.size
    assert np.asarray(missing).tobytes() != np.asarray(unreadable).tobytes()


def test_picture_query_and_long_text_fit_on_the_paper(tmp_path: Path) -> None:
    Image.new("RGB", (30, 30), (9, 9, 200)).save(tmp_path / "a.png")
    hits = [_hit(rank, tmp_path / "a.png") for rank in range(1, 13)]
    query = Image.new("RGB", (300, 100), (250, 0, 250))
    sheet = contact_sheet(hits, query, note="12 of 12 photos")
    left, top, right, bottom = _bounds(sheet, (250, 0, 250))
    assert (right - left) / (bottom - top) == pytest.approx(3.0, rel=0.02)
    assert bottom < _bounds(sheet, (9, 9, 200))[1]
    for text in ("word " * 300, "x" * 2000, "写真 ünï " * 3, ""):
        paper = np.asarray(contact_sheet(hits[:1], text, note="note " * 100))
        edges = np.concatenate([paper[:, :20].reshape(-1, 3), paper[:, -20:].reshape(-1, 3)])
        assert (edges == paper[0, 0]).all()


def test_a_long_name_has_a_second_line_and_is_not_cut(tmp_path: Path) -> None:
    # Names that differ in their middle alone would look alike if it were left out.
    drawn = []
    for middle in "ab":
        path = tmp_path / f"holidays_2024_by_{middle}_on_the_beach_00017.png"
        Image.new("RGB", (30, 30), (9, 9, 200)).save(path)
        drawn.append(np.asarray(contact_sheet([_hit(1, path)], "query")))
    assert drawn[0].shape == drawn[1].shape
    assert (drawn[0] != drawn[1]).any()


def test_no_hits_is_a_sheet_with_the_query_alone() -> None:
    assert contact_sheet([], "nothing like it").width >= 640


def test_saving(tmp_path: Path) -> None:
    sheet = contact_sheet([], "query")
    for name in ("a.png", "b.jpg", "deep/c.PNG"):
        save_contact_sheet(sheet, tmp_path / name)
        with Image.open(tmp_path / name) as read:
            assert read.size == sheet.size
    for name in ("d.txt", "e"):
        with pytest.raises(CrossAlignError, match=r"use \.png"):
            save_contact_sheet(sheet, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.jpg", "deep"]
