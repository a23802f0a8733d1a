"""Finding the images and captions of a collection that judgements name, whatever split they are in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from crossalign.data.collection import Collection, Split
from crossalign.suite.cxc import caption_number, image_number

__all__ = ["Lookup"]


class Lookup:
    """Images by file name and by COCO's number; captions by COCO's number and by ``FILE#NUMBER``.

    Args:
        collection: all of whose splits are looked through.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection

    @cached_property
    def image_of_file(self) -> dict[str, str]:
        """Image ids by the file's name, of those that no other file has; without a file the id stands for the name."""
        names = [((image.file or image.id).rpartition("/")[2], image.id) for image in self.collection.images]
        count = Counter(name for name, _ in names)
        return {name: image for name, image in names if count[name] == 1}

    @cached_property
    def image_of_number(self) -> dict[int, str]:
        """Image ids by COCO's number: the id itself, or what its file's name ends with."""
        found = {}
        for image in self.collection.images:
            number = image_number(image.id)
            number = image_number(image.file) if number is None else number
            if number is not None:
                found[number] = image.id
        return found

    @cached_property
    def caption_of_number(self) -> dict[int, str]:
        """Caption ids by COCO's number, of images that have one: other collections count their captions, too."""
        known = set(self.image_of_number.values())
        return {
            number: caption
            for image, captions in self.captions_of_image.items()
            if image in known
            for caption in captions
            if (number := caption_number(caption)) is not None
        }

    @cached_property
    def text(self) -> dict[str, str]:
        """The words of every caption by its id."""
        return {
            caption: text
            for split in self._splits
            for caption, text in zip(split.caption_ids, split.texts, strict=True)
        }

    @cached_property
    def captions_of_image(self) -> dict[str, list[str]]:
        """The ids of an image's captions in the order of the source."""
        found: dict[str, list[str]] = {}
        for split in self._splits:
            for caption, owner in zip(split.caption_ids, split.image_of_text, strict=True):
                found.setdefault(split.image_ids[owner], []).append(caption)
        return found

    @cached_property
    def caption_of_place(self) -> dict[str, str]:
        """Caption ids by ``FILE#NUMBER``, the number counted from 0 in the order of the source."""
        file = {image: name for name, image in self.image_of_file.items()}
        return {
            f"{file[image]}#{number}": caption
            for image, captions in self.captions_of_image.items()
            if image in file
            for number, caption in enumerate(captions)
        }

    def part(self, image_ids: Sequence[str], caption_ids: Sequence[str]) -> Split:
        """These images and captions as something to encode; which belongs to which is left open."""
        return Split(
            name="judged",
            image_ids=tuple(image_ids),
            caption_ids=tuple(caption_ids),
            texts=tuple(self.text[caption] for caption in caption_ids),
            image_of_text=np.zeros(len(caption_ids), np.int64),
        )

    def photos_missing(self, image_ids: Iterable[str]) -> int:
        """How many of these images have no photo on the disk."""
        files: Mapping[str, str] = {image.id: image.file for image in self.collection.images}
        root = self.collection.image_root
        return sum(not (files[image] and (root / files[image]).is_file()) for image in image_ids)

    @cached_property
    def _splits(self) -> list[Split]:
        return [self.collection.split(name) for name in self.collection.splits]
