"""Boxes with names: relative, clipped, chosen by score; bad files are refused with the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crossalign.data.collection import ImageRecord
from crossalign.data.labelled_boxes import read_label_names, read_labelled_boxes
from crossalign.data.labels import COCO_LABELS, forms, words_of_label
from crossalign.errors import CrossAlignError

IMAGES = [ImageRecord("1", "a.jpg", 100, 50), ImageRecord("2", "b.jpg", 10, 10)]


def write(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_boxes_by_label(tmp_path: Path) -> None:
    path = write(
        tmp_path / "d.jsonl",
        {
            "filename": "a.jpg",
            "boxes": [[10, 5, 50, 25], [-20, 0, 50, 80], [0, 0, 10, 10], [120, 0, 150, 50]],
            "scores": [0.9, 0.8, 0.2, 0.9],
            "classes": [16, 0, 16, 2],
        },
        {"filename": "stranger.jpg", "boxes": "unread"},
        {"id": "2", "boxes": [[1, 2, 3, 4]], "scores": [0.5], "labels": ["Garden gnome "], "classes": [999]},
    )
    found = read_labelled_boxes(path, IMAGES)
    assert found["1"] == {
        "dog": [pytest.approx((0.1, 0.1, 0.5, 0.5)), pytest.approx((0, 0, 0.1, 0.2))],
        "person": [pytest.approx((0, 0, 0.5, 1))],
    }
    assert found["2"] == {"Garden gnome": [pytest.approx((0.1, 0.2, 0.3, 0.4))]}
    sure = read_labelled_boxes(path, IMAGES, min_score=0.6)
    assert len(sure["1"]["dog"]) == 1
    assert sure["2"] == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not valid JSON"),
        ({"boxes": []}, "line 1: neither 'filename' nor 'id'"),
        ({"filename": "a.jpg", "boxes": [[1, 2, 3]], "labels": ["x"]}, "line 1: 'boxes' must be a list"),
        ({"filename": "a.jpg", "boxes": [[1, 2, 3, 4]]}, "line 1: needs 'labels', one name a box, or 'classes'"),
        ({"filename": "a.jpg", "boxes": [[1, 2, 3, 4]], "classes": []}, "line 1: needs 'labels'"),
        ({"filename": "a.jpg", "boxes": [[1, 2, 3, 4]], "classes": [1.5]}, "line 1: needs 'labels'"),
        ({"filename": "a.jpg", "boxes": [[1, 2, 3, 4]], "classes": [80]}, "line 1: class 80 has no name among 80"),
        ({"filename": "a.jpg", "boxes": [[1, 2, 3, 4]], "classes": [-1]}, "line 1: class -1 has no name"),
        ({"filename": "a.jpg", "boxes": [[1, 2, 3, 4]], "labels": "dog"}, "line 1: 'labels' must be one name a box"),
        ({"filename": "a.jpg", "boxes": [[1, 2, 3, 4]], "labels": [" "]}, "line 1: 'labels' must be one name a box"),
        ({"filename": "x.jpg", "boxes": []}, "no line for any of the 2 images"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path / "d.jsonl", line)
    with pytest.raises(CrossAlignError, match=message) as caught:
        read_labelled_boxes(path, IMAGES)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_an_image_without_size_or_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", {"filename": "a.jpg", "boxes": [], "labels": []})
    with pytest.raises(CrossAlignError, match="image '1' has no size"):
        read_labelled_boxes(path, [ImageRecord("1", "a.jpg", 0, 0)])
    with pytest.raises(CrossAlignError, match="no such file of detections"):
        read_labelled_boxes(tmp_path / "none.jsonl", IMAGES)


def test_names_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\n fire truck \n\n")
    assert read_label_names(tmp_path / "names.txt") == ("cat", "fire truck")
    for content, message in (
        (b"cat\n\ndog", "line 2: no name"),
        (b"\n", "no names in it"),
        (b"\xff", "not UTF-8"),
    ):
        (tmp_path / "bad.txt").write_bytes(content)
        with pytest.raises(CrossAlignError, match=message):
            read_label_names(tmp_path / "bad.txt")
    with pytest.raises(CrossAlignError, match="no such file of labels"):
        read_label_names(tmp_path / "none.txt")


def test_words_of_a_label() -> None:
    assert len(COCO_LABELS) == len(set(COCO_LABELS)) == 80
    assert COCO_LABELS[16] == "dog"
    assert COCO_LABELS[79] == "toothbrush"
    assert {
        ("person",),
        ("people",),
        ("woman",),
        ("women",),
        ("ladies",),
        ("child",),
        ("children",),
    } <= words_of_label("person")
    assert words_of_label("Fire-Truck") == {("fire", "truck"), ("fire", "trucks")}
    assert words_of_label("dining_table") == words_of_label("dining table")
    assert words_of_label("tv/monitor") == {("tv", "monitor"), ("tv", "monitors")}
    assert words_of_label("-") == frozenset()
    assert forms(["glass"]) == {("glass",), ("glasses",)}
    assert forms(["boy"]) == {("boy",), ("boys",)}
    assert forms(["bench"]) == {("bench",), ("benches",)}
    assert forms(["sheep"]) == {("sheep",)}


def test_no_word_names_two_labels_of_coco() -> None:
    seen: dict[tuple[str, ...], str] = {}
    for label in COCO_LABELS:
        for words in words_of_label(label):
            assert seen.setdefault(words, label) == label
