"""The texts of an index: lines of a file, or captions of a collection, each text once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossalign.data.collection import Collection
from crossalign.data.tables import DESCRIPTION
from crossalign.errors import CrossAlignError

__all__ = ["TextEntry", "default_text_index", "read_texts"]

_LONGEST = 10_000


@dataclass
class TextEntry:
    """Where one text stands: numbers of lines or ids of captions, and the photos it describes, absolute paths."""

    ids: list[str] = field(default_factory=list)
    photos: list[str] = field(default_factory=list)

    def payload(self) -> dict[str, Any]:
        """What is stored beside the embedding."""
        return {"ids": self.ids, "photos": self.photos}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> TextEntry:
        """The entry that :meth:`payload` made."""
        return cls(list(payload["ids"]), list(payload["photos"]))


def default_text_index(source: str | Path) -> Path:
    """Where an index of texts goes if nothing else is said: beside them, as ``NAME.texts.index``."""
    source = Path(source).resolve()
    return source.with_name(f"{source.name}.texts.index")


def read_texts(source: str | Path, split: str | None = None) -> dict[str, TextEntry]:
    """Every different text with where it stands, in the order of the source.

    Args:
        source: a file with a text a line (empty ones are passed over), or the folder of a collection.
        split: of a collection, its captions alone; None: all.

    Raises:
        CrossAlignError: nothing is there, no UTF-8, no text, one of more than 10,000 characters, or a split of a file.
    """
    path = Path(source)
    found: dict[str, TextEntry] = {}
    if path.is_dir():
        if not (path / DESCRIPTION).is_file():
            raise CrossAlignError(f"{path}: no collection; give a file with a text a line, or a collection")
        collection = Collection.load(path)
        for name in collection.splits if split is None else (split,):
            part = collection.split(name)
            records = [collection.image(image) for image in part.image_ids]
            files = [
                str(collection.image_root.resolve() / record.file) if record.file else ""
                for record in records
            ]
            for caption, text, image in zip(part.caption_ids, part.texts, part.image_of_text, strict=True):
                _add(found, text, caption, files[image], path)
    else:
        if split is not None:
            raise CrossAlignError(f"--split {split}: {path} is a file and has no splits; leave it out")
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise CrossAlignError(
                f"{path}: cannot be read ({error.strerror}); give a file of texts"
            ) from None
        except UnicodeDecodeError:
            raise CrossAlignError(f"{path}: not UTF-8 text; save it as UTF-8, a text a line") from None
        for number, line in enumerate(lines, start=1):
            if line.strip():
                _add(found, line.strip(), str(number), "", path)
    if not found:
        raise CrossAlignError(f"{path}: no texts in it; give a file with a text a line, or a collection")
    return found


def _add(found: dict[str, TextEntry], text: str, place: str, photo: str, source: Path) -> None:
    if len(text) > _LONGEST:
        raise CrossAlignError(f"{source}: text {place} has {len(text)} characters; {_LONGEST} at most")
    entry = found.setdefault(text, TextEntry())
    entry.ids.append(place)
    if photo and photo not in entry.photos:
        entry.photos.append(photo)
