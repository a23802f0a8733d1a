"""The collection: the images, captions and splits of one data set in the library's own layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from crossalign.data import tables
from crossalign.errors import CrossAlignError
from crossalign.files import file_digest, read_json, write_json
from crossalign.folders import atomic_folder, restore_folder

__all__ = ["CaptionRecord", "Collection", "ImageRecord", "Split"]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ImageRecord:
    """One image: its id in the source, its file relative to the image root, and its size in pixels.

    ``file`` uses forward slashes, may be absolute, and is empty where only features of the image exist.
    """

    id: str
    file: str
    width: int
    height: int
    label: str | None = None


@dataclass(frozen=True)
class CaptionRecord:
    """One caption of one image, and the split that it belongs to."""

    id: str
    image_id: str
    text: str
    split: str


@dataclass(frozen=True)
class Split:
    """The captions of one split and the images they describe.

    Images stand in the order of the source and captions of one image stand together;
    ``image_of_text`` ``(captions,)`` is the position in ``image_ids`` of each caption's image.
    """

    name: str
    image_ids: tuple[str, ...]
    caption_ids: tuple[str, ...]
    texts: tuple[str, ...]
    image_of_text: npt.NDArray[np.int64]


class Collection:
    """Images, captions and splits of one data set: a description and two Parquet tables in a folder."""

    def __init__(
        self,
        folder: Path,
        description: dict[str, Any],
        images: pa.Table,
        captions: pa.Table,
        image_root: Path,
    ) -> None:
        self.folder = folder
        self.name: str = description["name"]
        self.provenance: dict[str, Any] = description["provenance"]
        self.image_root = image_root
        self.splits: tuple[str, ...] = tuple(description["splits"])
        self._image_table = images
        self._caption_table = captions
        positions = pc.index_in(captions["image_id"], value_set=images["image_id"])
        self._image_of_caption: npt.NDArray[np.int64] = positions.to_numpy().astype(np.int64)

    @classmethod
    def load(cls, folder: str | Path, *, image_root: str | Path | None = None) -> Self:
        """Open a collection; ``image_root`` says where the photos are when they moved after the import.

        Raises:
            CrossAlignError: there is no collection, it is damaged, or it has another format version.
        """
        folder = Path(folder)
        restore_folder(folder)
        path = folder / tables.DESCRIPTION
        if not path.is_file():
            raise CrossAlignError(
                f"{folder}: not a collection (no {tables.DESCRIPTION}); make one with 'crossalign import'"
            )
        description = read_json(path, "import the collection again")
        if not isinstance(description, dict) or description.get("format_version") != FORMAT_VERSION:
            raise CrossAlignError(f"{path}: not format version {FORMAT_VERSION}; import the collection again")
        missing = {"name", "image_root", "splits", "provenance", "checksums"} - description.keys()
        if missing:
            raise CrossAlignError(f"{path}: no {', '.join(sorted(missing))}; import the collection again")
        images = tables.read_table(folder / tables.IMAGES, tables.IMAGE_SCHEMA, description["checksums"])
        captions = tables.read_table(
            folder / tables.CAPTIONS, tables.CAPTION_SCHEMA, description["checksums"]
        )
        root = Path(image_root) if image_root is not None else folder / (description["image_root"] or ".")
        return cls(folder, description, images, captions, root)

    @classmethod
    def write(
        cls,
        folder: str | Path,
        *,
        name: str,
        image_root: str | Path | None,
        images: Sequence[ImageRecord],
        captions: Sequence[CaptionRecord],
        provenance: dict[str, Any],
        overwrite: bool = False,
        features: Path | None = None,
    ) -> Self:
        """Write a collection, whole or not at all, and open it.

        ``image_root`` is stored as an absolute path, or relative to ``folder`` when it lies inside it; None
        means that there are no photos. ``features`` is a finished feature store on the same disk, which
        is moved in.

        Raises:
            CrossAlignError: an id occurs twice, a caption has no image or no text, or ``folder`` exists.
        """
        folder = Path(folder).resolve()
        tables.check_unique(folder, "image", [image.id for image in images])
        tables.check_unique(folder, "caption", [caption.id for caption in captions])
        _check_captions(folder, {image.id for image in images}, captions)
        tables.check_target(folder, overwrite)
        image_rows = [(i.id, i.file, i.width, i.height, i.label) for i in images]
        caption_rows = [(c.id, c.image_id, c.text, c.split) for c in captions]
        with atomic_folder(folder, overwrite=overwrite) as temporary:
            tables.write_table(temporary / tables.IMAGES, tables.IMAGE_SCHEMA, image_rows)
            tables.write_table(temporary / tables.CAPTIONS, tables.CAPTION_SCHEMA, caption_rows)
            if features is not None:
                features.rename(temporary / tables.FEATURES)
            description = {
                "format_version": FORMAT_VERSION,
                "name": name,
                "image_root": None if image_root is None else _stored_root(folder, Path(image_root)),
                "splits": tables.ordered_splits([caption.split for caption in captions]),
                "provenance": provenance,
                "checksums": {
                    file: file_digest(temporary / file) for file in (tables.IMAGES, tables.CAPTIONS)
                },
            }
            write_json(temporary / tables.DESCRIPTION, description)
        return cls.load(folder)

    @cached_property
    def images(self) -> tuple[ImageRecord, ...]:
        """Every image in the order of the source, also those without a caption."""
        columns = [self._image_table[name].to_pylist() for name in tables.IMAGE_SCHEMA.names]
        return tuple(ImageRecord(*row) for row in zip(*columns, strict=True))

    @cached_property
    def _image_by_id(self) -> dict[str, ImageRecord]:
        return {image.id: image for image in self.images}

    @cached_property
    def _root_present(self) -> bool:
        return self.image_root.is_dir()

    def split(self, name: str) -> Split:
        """The captions and images of one split.

        Raises:
            CrossAlignError: there is no such split; the message lists those there are.
        """
        if name not in self.splits:
            raise CrossAlignError(
                f"{self.folder}: no split '{name}'; it has {', '.join(self.splits) or 'none'}"
            )
        rows = np.flatnonzero(pc.equal(self._caption_table["split"], name).to_numpy())
        rows = rows[np.argsort(self._image_of_caption[rows], kind="stable")]
        positions, image_of_text = np.unique(self._image_of_caption[rows], return_inverse=True)
        captions = self._caption_table.take(pa.array(rows))
        return Split(
            name=name,
            image_ids=tuple(self._image_table["image_id"].take(pa.array(positions)).to_pylist()),
            caption_ids=tuple(captions["caption_id"].to_pylist()),
            texts=tuple(captions["caption"].to_pylist()),
            image_of_text=image_of_text.astype(np.int64),
        )

    def image(self, image_id: str) -> ImageRecord:
        """The record of one image; CrossAlignError when there is none with this id."""
        if image_id not in self._image_by_id:
            raise CrossAlignError(f"{self.folder}: no image with id '{image_id}'")
        return self._image_by_id[image_id]

    def image_path(self, image_id: str) -> Path:
        """Where the photo of an image is.

        Raises:
            CrossAlignError: no such image, only features of it exist, or the image root is not there.
        """
        file = self.image(image_id).file
        if not file:
            raise CrossAlignError(f"{self.folder}: image '{image_id}' has features only, no photo")
        if not PurePosixPath(file).is_absolute() and not self._root_present:
            raise CrossAlignError(
                f"{self.folder}: its image folder {self.image_root} does not exist; "
                "give the place where the photos are now (image root), or import the collection again"
            )
        return self.image_root / file

    def summary(self) -> dict[str, Any]:
        """Counts of every split: images, captions, and the least, mean and most captions an image."""
        splits: dict[str, Any] = {}
        for name in self.splits:
            counts = np.bincount(self.split(name).image_of_text)
            mean = round(float(counts.mean()), 4)
            per_image = {"min": int(counts.min()), "mean": mean, "max": int(counts.max())}
            splits[name] = {
                "images": len(counts),
                "captions": int(counts.sum()),
                "captions_per_image": per_image,
            }
        return {
            "name": self.name,
            "folder": str(self.folder),
            "image_root": str(self.image_root),
            "images": self._image_table.num_rows,
            "captions": self._caption_table.num_rows,
            "splits": splits,
        }


def _check_captions(folder: Path, image_ids: set[str], captions: Sequence[CaptionRecord]) -> None:
    for caption in captions:
        if caption.image_id not in image_ids:
            raise CrossAlignError(
                f"{folder}: caption '{caption.id}' belongs to the unknown image '{caption.image_id}'"
            )
        if not caption.text.strip() or not caption.split:
            raise CrossAlignError(f"{folder}: caption '{caption.id}' has no text or no split")


def _stored_root(folder: Path, root: Path) -> str:
    root = root.resolve()
    return root.relative_to(folder).as_posix() if root.is_relative_to(folder) else str(root)
