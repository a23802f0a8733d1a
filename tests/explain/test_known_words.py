"""Which words are known and which boxes are right for them: labels, Flickr30k Entities, scenes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from test_entities import make

from crossalign.data.collection import CaptionRecord, Collection, ImageRecord
from crossalign.data.scenes import make_scenes
from crossalign.errors import CrossAlignError
from crossalign.explain.known_words import EntityWords, LabelWords, SceneWords

DOG, OTHER_DOG, PERSON, RACKET = [0, 0, 50, 50], [50, 0, 100, 50], [0, 0, 100, 100], [10, 10, 20, 20]


def collection(folder: Path, images: list[ImageRecord]) -> Collection:
    captions = [CaptionRecord(f"{image.id}#0", image.id, "text", "test") for image in images]
    return Collection.write(
        folder, name="c", image_root=None, images=images, captions=captions, provenance={}
    )


def label_words(folder: Path, entry: dict[str, Any], **options: Any) -> LabelWords:
    part = collection(
        folder / "c", [ImageRecord("a", "a.jpg", 100, 100), ImageRecord("b", "b.jpg", 100, 100)]
    )
    path = folder / "found.jsonl"
    path.write_text(json.dumps({"filename": "a.jpg", **entry}) + "\n")
    return LabelWords(part, path, **options)


def told(words: LabelWords, text: str, image_id: str = "a") -> list[tuple[str, str, int]]:
    return [
        (text[word.start : word.end], word.kind, len(word.boxes)) for word in words.of(image_id, "a#0", text)
    ]


def test_words_that_name_a_found_label(tmp_path: Path) -> None:
    entry = {"boxes": [DOG, OTHER_DOG, PERSON, RACKET], "classes": [16, 16, 0, 38]}
    words = label_words(tmp_path, entry)
    assert words.source == "labels of found.jsonl"
    text = "Two Dogs and a woman's child, a cat; a Tennis-Racket, a doghouse."
    assert told(words, text) == [
        ("Dogs", "dog", 2),
        ("child", "person", 1),
        ("Tennis-Racket", "tennis racket", 1),
    ]
    assert words.of("a", "a#0", text)[0].boxes == ((0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5))
    assert told(words, text, image_id="b") == []
    assert told(words, "") == []


def test_the_longest_name_counts(tmp_path: Path) -> None:
    entry = {"boxes": [DOG, OTHER_DOG], "labels": ["dog", "hot dog"]}
    assert told(label_words(tmp_path, entry), "A hot dog for a dog.") == [
        ("hot dog", "hot dog", 1),
        ("dog", "dog", 1),
    ]


def test_a_longer_name_that_was_not_found_is_not_the_shorter_one(tmp_path: Path) -> None:
    """A hot dog is no dog, though only a dog was found in this photo."""
    folder = tmp_path / "x"
    part = collection(folder, [ImageRecord("a", "a.jpg", 100, 100), ImageRecord("b", "b.jpg", 100, 100)])
    rows = [
        {"filename": "a.jpg", "boxes": [DOG], "labels": ["dog"]},
        {"filename": "b.jpg", "boxes": [DOG], "labels": ["hot dog"]},
    ]
    path = tmp_path / "found.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert told(LabelWords(part, path), "A hot dog and a dog.") == [("dog", "dog", 1)]


def test_unsure_boxes_and_names_of_ones_own(tmp_path: Path) -> None:
    entry = {"boxes": [DOG, OTHER_DOG], "classes": [0, 1], "scores": [0.9, 0.3]}
    words = label_words(tmp_path, entry, names=("gnome", "fairy"), min_score=0.5)
    assert told(words, "A fairy and two gnomes") == [("gnomes", "gnome", 1)]


def test_phrases_of_flickr30k_entities_in_captions_that_are_spaced_otherwise(tmp_path: Path) -> None:
    part = collection(
        tmp_path / "c", [ImageRecord("7", "deep/77.jpg", 9, 9), ImageRecord("8", "88.jpg", 9, 9)]
    )
    words = EntityWords(part, make(tmp_path / "entities"))
    text = 'Two painters, carry "a ladder" in a yard.'
    found = words.of("7", "7#0", text)
    assert [(text[word.start : word.end], word.kind, len(word.boxes)) for word in found] == [
        ("Two painters", "people", 2),
        ("a ladder", "other", 1),
    ]
    assert words.of("7", "7#0", "Two painters carry a ladder") == []
    assert words.of("8", "8#0", text) == []


def test_entities_of_other_photos(tmp_path: Path) -> None:
    part = collection(tmp_path / "c", [ImageRecord("1", "1.jpg", 9, 9)])
    with pytest.raises(CrossAlignError, match="no sentences of any of these photos"):
        EntityWords(part, make(tmp_path / "entities"))


def test_words_of_scenes(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "scenes", train=0, val=0, test=3, size=32)
    part = scenes.split("test")
    words = SceneWords(scenes)
    for caption_id, text, image in zip(part.caption_ids, part.texts, part.image_of_text, strict=True):
        for word in words.of(part.image_ids[image], caption_id, text):
            assert word.kind in ("colour", "shape", "size")
            assert len(word.boxes) == 1
            assert word.end > word.start
