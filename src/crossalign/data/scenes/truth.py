"""The truth about synthetic scenes: what is in each picture and which object each word means."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from crossalign.data.collection import Collection
from crossalign.data.scenes.captions import SceneCaption
from crossalign.data.scenes.claims import Claims, SceneIndex
from crossalign.data.scenes.make import SCENES, TRUTH
from crossalign.data.scenes.teller import GROUND
from crossalign.data.scenes.world import Scene, SceneObject
from crossalign.errors import CrossAlignError

__all__ = ["SceneTruth", "WordTruth", "oracle_recall"]

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class WordTruth:
    """A content word of a caption, in characters, and the relative xyxy box of the object that it means."""

    start: int
    end: int
    kind: str
    box: Box

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The one box, as words with several objects have them."""
        return (self.box,)


@dataclass(frozen=True)
class SceneTruth:
    """The ground truth of a collection of scenes.

    Attributes:
        scenes: by image id, what is in the picture; ``draw_scene`` draws it again at any size.
        boxes: by image id, the relative xyxy box of each of the scene's objects.
        captions: by caption id, the text with the object behind each content word.
        image_of: by caption id, the id of its image.
    """

    scenes: Mapping[str, Scene]
    boxes: Mapping[str, tuple[Box, ...]]
    captions: Mapping[str, SceneCaption]
    image_of: Mapping[str, str]

    @classmethod
    def load(cls, collection: Collection) -> Self:
        """Read the truth of a collection that ``make_scenes`` made.

        Raises:
            CrossAlignError: the collection has no such truth, or it is damaged.
        """
        scenes: dict[str, Scene] = {}
        boxes: dict[str, tuple[Box, ...]] = {}
        captions: dict[str, SceneCaption] = {}
        image_of: dict[str, str] = {}
        texts = {
            caption_id: text
            for name in collection.splits
            for split in [collection.split(name)]
            for caption_id, text in zip(split.caption_ids, split.texts, strict=True)
        }
        sides = {image.id: (image.width, image.height) for image in collection.images}
        for row in _read_lines(collection.folder / SCENES):
            with _checked(collection.folder / SCENES):
                image_id, pixels = row.pop("image_id"), row.pop("boxes")
                width, height = sides[image_id]
                boxes[image_id] = tuple(
                    (a / width, b / height, c / width, d / height) for a, b, c, d in pixels
                )
                row["objects"] = tuple(SceneObject(**item) for item in row["objects"])
                scenes[image_id] = Scene(**row)
        for row in _read_lines(collection.folder / TRUTH):
            with _checked(collection.folder / TRUTH):
                caption_id = row["caption_id"]
                spans = tuple((start, end, item) for start, end, item in row["spans"])
                claims = Claims.from_json(row["claims"])
                captions[caption_id] = SceneCaption(texts[caption_id], spans, tuple(row["kinds"]), claims)
                image_of[caption_id] = row["image_id"]
        if captions.keys() != texts.keys() or scenes.keys() != sides.keys():
            raise CrossAlignError(
                f"{collection.folder}: its truth leaves out images or captions; make the scenes again"
            )
        return cls(scenes, boxes, captions, image_of)

    def words(self, caption_id: str) -> list[WordTruth]:
        """The words of a caption that mean an object, in order; words about the ground are left out."""
        caption = self.captions[caption_id]
        boxes = self.boxes[self.image_of[caption_id]]
        return [
            WordTruth(start, end, kind, boxes[item])
            for (start, end, item), kind in zip(caption.spans, caption.kinds, strict=True)
            if item != GROUND
        ]


def oracle_recall(truth: SceneTruth, image_ids: Sequence[str], *, words_only: bool = False) -> float:
    """Text-to-image R@1 in percent of a reader who knows what is in every picture of the gallery.

    The reader draws by lot among the scenes of which the caption is true; with ``words_only`` among those
    that hold the named shapes, colours and sizes at all: what a perfect bag of words would reach.
    """
    index = SceneIndex([truth.scenes[image_id] for image_id in image_ids])
    gallery = set(image_ids)
    hits = [
        1 / sum(1 for _ in (index.find_words if words_only else index.find)(caption.claims))
        for caption_id, caption in truth.captions.items()
        if truth.image_of[caption_id] in gallery
    ]
    return 100 * sum(hits) / len(hits)


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise CrossAlignError(
            f"{path}: no such file; only collections of synthetic scenes have a truth"
        ) from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise CrossAlignError(
                f"{path}: line {number} is not JSON ({error.msg}); make the scenes again"
            ) from None
        yield row


@contextmanager
def _checked(path: Path) -> Iterator[None]:
    """Turn a row of the wrong form into one clear line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CrossAlignError(f"{path}: damaged ({error!r}); make the scenes again") from None
