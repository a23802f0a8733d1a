"""Words whose object is known: from the truth of scenes, from labelled detections, from Flickr30k Entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from crossalign.data.collection import Collection
from crossalign.data.entities import EntitySentence, read_entities
from crossalign.data.labelled_boxes import read_labelled_boxes
from crossalign.data.labels import COCO_LABELS, words_of_label
from crossalign.data.scenes import SceneTruth
from crossalign.evaluation.region_match import Box, GroundedWord
from crossalign.explain.words import caption_words

__all__ = ["EntityWords", "KnownWords", "LabelWords", "SceneWords", "WordBoxes"]


@dataclass(frozen=True)
class WordBoxes:
    """A word or phrase: its first character, its last one plus one, its kind, the boxes that are right for it."""

    start: int
    end: int
    kind: str
    boxes: tuple[Box, ...]


class KnownWords(Protocol):
    """Where it is known which boxes show what the words of a caption mean."""

    @property
    def source(self) -> str:
        """Where the boxes come from, in a few words."""
        ...

    def of(self, image_id: str, caption_id: str, text: str) -> Sequence[GroundedWord]:
        """The known words of a caption, in order; none where nothing is known."""
        ...


class SceneWords:
    """The content words of synthetic scenes.

    Raises:
        CrossAlignError: the collection has no such truth, or it is damaged.
    """

    source = "synthetic scenes"

    def __init__(self, collection: Collection) -> None:
        self._truth = SceneTruth.load(collection)

    def of(self, image_id: str, caption_id: str, text: str) -> Sequence[GroundedWord]:
        """The words that mean an object of the scene."""
        return self._truth.words(caption_id)


class LabelWords:
    """Words that name the label of a detected box: every box of that label in the image is right for them.

    Args:
        path: a file of detections with labels or classes.
        names: of the classes.
        min_score: boxes that the detector was less sure of are left out.

    Raises:
        CrossAlignError: the file is missing, damaged, or for other photos.
    """

    def __init__(
        self,
        collection: Collection,
        path: str | Path,
        names: Sequence[str] = COCO_LABELS,
        min_score: float | None = None,
    ) -> None:
        sure = "" if min_score is None else f" with a score of {min_score:g} or more"
        self.source = f"labels of {Path(path).name}{sure}"
        self._boxes = read_labelled_boxes(path, collection.images, names=names, min_score=min_score)
        self._labels: dict[tuple[str, ...], list[str]] = {}
        for label in sorted({label for boxes in self._boxes.values() for label in boxes}):
            for words in words_of_label(label):
                self._labels.setdefault(words, []).append(label)
        self._longest = max(map(len, self._labels), default=0)

    def of(self, image_id: str, caption_id: str, text: str) -> Sequence[GroundedWord]:
        """The words that name a label of which the image has a box; the longest name counts."""
        boxes = self._boxes.get(image_id, {})
        words = caption_words(text)
        said = [word.text.lower() for word in words]
        found: list[WordBoxes] = []
        position = 0
        while position < len(words):
            length = next(
                (
                    length
                    for length in range(min(self._longest, len(words) - position), 0, -1)
                    if tuple(said[position : position + length]) in self._labels
                ),
                0,
            )
            if length:
                labels = self._labels[tuple(said[position : position + length])]
                present = [label for label in labels if label in boxes]
                right = tuple(box for label in present for box in boxes[label])
                if right:
                    start, end = words[position].start, words[position + length - 1].end
                    found.append(WordBoxes(start, end, present[0], right))
            position += max(length, 1)
        return found


class EntityWords:
    """The phrases of Flickr30k Entities; a sentence belongs to the caption with the same letters and digits.

    Raises:
        CrossAlignError: the folder has not this layout, a file is damaged, or none is for these photos.
    """

    source = "phrases of Flickr30k Entities"

    def __init__(self, collection: Collection, folder: str | Path) -> None:
        names = {image.id: PurePosixPath(image.file or image.id).stem for image in collection.images}
        sentences = read_entities(folder, dict.fromkeys(names.values()))
        self._of_image: dict[str, Mapping[str, EntitySentence]] = {
            image_id: {_letters(sentence.text)[0]: sentence for sentence in sentences[name]}
            for image_id, name in names.items()
            if name in sentences
        }

    def of(self, image_id: str, caption_id: str, text: str) -> Sequence[GroundedWord]:
        """The phrases of the sentence that the caption is; none where the image has no such sentence."""
        letters, places = _letters(text)
        sentence = self._of_image.get(image_id, {}).get(letters)
        if sentence is None:
            return []
        known = []
        for phrase in sentence.phrases:
            # Spaces and punctuation may differ, so the phrase is found by counting letters.
            first = len(_letters(sentence.text[: phrase.start])[0])
            count = len(_letters(sentence.text[phrase.start : phrase.end])[0])
            if count:
                start, end = places[first], places[first + count - 1] + 1
                known.append(WordBoxes(start, end, phrase.kind, phrase.boxes))
        return known


def _letters(text: str) -> tuple[str, list[int]]:
    """The letters and digits of a text in lower case, and the place of each."""
    places = [place for place, letter in enumerate(text) if letter.isalnum()]
    return "".join(text[place].lower()[:1] for place in places), places
