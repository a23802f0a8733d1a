"""Detections are matched to photos, scaled, chosen and clipped; bad files are refused with the line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from crossalign.data.collection import ImageRecord
from crossalign.data.detections import read_detections, usable_boxes
from crossalign.errors import CrossAlignError

IMAGES = [
    ImageRecord("1", "train/a.jpg", 100, 50),
    ImageRecord("2", "val/a.jpg", 10, 10),
    ImageRecord("3", "train/c.jpg", 200, 100),
]
LINES = [
    {
        "filename": "c.jpg",
        "boxes": [[20, 10, 100, 100], [0, 0, 200, 50], [-10, 0, 20, 10]],
        "scores": [0.2, 0.9, 0.5],
    },
    {"filename": "train/a.jpg", "boxes": [[50, 0, 100, 25]]},
    {"filename": "stranger.jpg", "boxes": "unread"},
    {"id": "2", "boxes": []},
]


def write(path: Path, lines: list[object]) -> Path:
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_boxes_are_relative_and_in_the_order_of_the_images(tmp_path: Path) -> None:
    first, second, third = read_detections(write(tmp_path / "d.jsonl", LINES), IMAGES)
    np.testing.assert_allclose(first, [[0.5, 0, 1, 0.5]])
    assert second.shape == (0, 4)
    np.testing.assert_allclose(third, [[0.1, 0.1, 0.5, 1], [0, 0, 1, 0.5], [-0.05, 0, 0.1, 0.1]])
    assert third.dtype == np.float32


def test_the_surest_boxes_stay_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{**LINES[0], "filename": "train/c.jpg"}])
    best = read_detections(path, IMAGES[2:], max_boxes=2)[0]
    np.testing.assert_allclose(best[:, 0], [0, -0.05])
    assert len(read_detections(path, IMAGES[2:], min_score=0.5)[0]) == 2
    assert len(read_detections(path, IMAGES[2:], min_score=0.95)[0]) == 0
    with pytest.raises(CrossAlignError, match="line 2: choosing boxes by score needs 'scores'"):
        read_detections(write(tmp_path / "d.jsonl", LINES), IMAGES, max_boxes=3)


def test_usable_boxes_are_clipped_and_have_an_area() -> None:
    boxes = np.array(
        [[-0.5, 0.2, 0.4, 1.7], [0.3, 0.3, 0.3, 0.9], [1.1, 0, 1.2, 1], [0.9, 0.1, 0.2, 0.3], [0, 0, 1, 1]],
        np.float32,
    )
    np.testing.assert_allclose(usable_boxes(boxes), [[0, 0.2, 0.4, 1], [0, 0, 1, 1]])
    part = usable_boxes(boxes, (0.25, 0, 0.75, 1))
    np.testing.assert_allclose(part, [[0.25, 0.2, 0.4, 1], [0.3, 0.3, 0.3, 0.9], [0.25, 0, 0.75, 1]][::2])
    assert usable_boxes(np.zeros((0, 4), np.float32)).shape == (0, 4)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (LINES[:3], r"no line for '2' \(1 of 3 photos missing\)"),
        ([*LINES, LINES[0]], r"line 5: second line for '3'"),
        ([*LINES[:3], {"id": "2", "boxes": [[1, 2, 3]]}], r"line 4: 'boxes' must be a list of four numbers"),
        ([*LINES[:3], {"id": "2"}], r"line 4: 'boxes' must be"),
        ([*LINES[:3], {"id": "2", "boxes": [[1, 2, 3, float("nan")]]}], r"line 4: a box is not finite"),
        ([*LINES[:3], {"boxes": []}], r"line 4: neither 'filename' nor 'id'"),
        ([*LINES[:3], []], r"line 4: not an object"),
        # Two photos are called a.jpg: the last part of the path does not say which one is meant.
        ([*LINES[:1], {"filename": "a.jpg", "boxes": []}], r"no line for '1' \(2 of 3"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, lines: list[object], message: str) -> None:
    with pytest.raises(CrossAlignError, match=message):
        read_detections(write(tmp_path / "d.jsonl", lines), IMAGES)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossAlignError, match="no such file of detections"):
        read_detections(tmp_path / "none.jsonl", IMAGES)
    (tmp_path / "d.jsonl").write_text('{"filename": "c.jpg"\n')
    with pytest.raises(CrossAlignError, match="line 1: not valid JSON"):
        read_detections(tmp_path / "d.jsonl", IMAGES)
    (tmp_path / "d.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(CrossAlignError, match="not UTF-8"):
        read_detections(tmp_path / "d.jsonl", IMAGES)
