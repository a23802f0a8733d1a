"""Reading lists of image-caption pairs in JSON, the layout that CUSA, BLIP and their relatives train on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from crossalign.data.collection import ImageRecord
from crossalign.data.importers.source import MALFORMED, Source, as_id, read_document, tidy_path
from crossalign.errors import CrossAlignError
from crossalign.files import file_digest

__all__ = ["read_cusa", "split_in_name"]

SPLIT_NAMES = ("train", "restval", "val", "dev", "test")


def split_in_name(path: Path) -> str:
    """The split that a file name speaks of (``new_train.json``: train), "" where it names none or several."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    named = [name for name in SPLIT_NAMES if name in words]
    return named[0] if len(named) == 1 else ""


def read_cusa(
    paths: Sequence[str | Path], images: str | Path | None = None, *, splits: Sequence[str] = ()
) -> Source:
    """Images and captions of ``[{"image_path", "caption", "image_id"}]``, one file for every split.

    ``caption`` is one caption or a list of them; ``image`` is read as ``image_path``; without ``image_id``
    the path is the id.

    Args:
        paths: the JSON files.
        images: the folder that the paths are relative to; the folder of the first file where it is not given.
        splits: the split of every file; taken from the file names where they are not given.

    Raises:
        CrossAlignError: a file is missing, not JSON or not a list, or splits and files differ in number.
    """
    files = [Path(path) for path in paths]
    if not files:
        raise CrossAlignError("no JSON file given; name at least one")
    if splits and len(splits) != len(files):
        raise CrossAlignError(
            f"{len(splits)} splits for {len(files)} files; give one for every file, or none"
        )
    names = list(splits) or [split_in_name(path) for path in files]
    source = Source(
        Path(images) if images is not None else files[0].parent,
        provenance={
            "format": "cusa",
            "files": {str(path.resolve()): file_digest(path) for path in files if path.is_file()},
            "options": {"splits": names},
        },
    )
    captions_of: Counter[str] = Counter()
    for path, split in zip(files, names, strict=True):
        entries = read_document(path)
        if not isinstance(entries, list):
            raise CrossAlignError(f"{path}: not a list of images with captions; is it another format?")
        for position, entry in enumerate(entries):
            _add_entry(source, entry, f"{path.name}[{position}]", split, captions_of)
    return source


def _add_entry(source: Source, entry: object, where: str, split: str, captions_of: Counter[str]) -> None:
    if not isinstance(entry, dict):
        source.add_problem(MALFORMED, f"{where} (not an object)")
        return
    file = entry.get("image_path", entry.get("image"))
    if not isinstance(file, str) or not file:
        source.add_problem(MALFORMED, f"{where} (no 'image_path')")
        return
    given = entry.get("caption")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        source.add_problem(MALFORMED, f"{where} ('caption' is neither text nor a list of texts)")
        return
    image_id = as_id(entry.get("image_id")) or tidy_path(file)
    source.images.append(ImageRecord(image_id, tidy_path(file), 0, 0))
    source.add_captions(image_id, texts, split, first=captions_of[image_id])
    captions_of[image_id] += len(texts)
