"""Reading a folder of photos with a file of captions, or with a text file beside every photo."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, deque
from pathlib import Path

from crossalign.data.collection import CaptionRecord, ImageRecord
from crossalign.data.importers.source import (
    IMAGE_SUFFIXES,
    MALFORMED,
    NOT_UTF8_CAPTION,
    UNKNOWN_IMAGE,
    Source,
    read_lines,
    tidy_path,
)
from crossalign.errors import CrossAlignError
from crossalign.files import file_digest

__all__ = ["CAPTION_FILES", "read_folder"]

CAPTION_FILES = ("captions.txt", "captions.tsv", "captions.csv")
_SUFFIXES = "|".join(re.escape(suffix) for suffix in IMAGE_SUFFIXES)
# A comma may be part of a file name: the name ends at the first image suffix that a comma follows.
_COMMA_LINE = re.compile(rf"(?P<name>.+?(?:{_SUFFIXES})(?:#\d+)?)\s*,(?P<caption>.*)", re.IGNORECASE)
_HEADER = re.compile(
    r"\s*(image|image_name|filename|file)\s*[,\t]\s*(caption|comment|text)\s*", re.IGNORECASE
)
_NUMBERED = re.compile(r"(?P<name>.+)#\d+")


def read_folder(folder: str | Path, captions: str | Path | None = None) -> Source:
    """Photos of a folder and the folders in it, with their captions.

    The caption file has lines ``name.jpg<TAB>caption``, ``name.jpg,caption`` or ``name.jpg#0<TAB>caption``.
    Without one, every line of ``name.txt`` is a caption of ``name.jpg`` beside it.

    Args:
        captions: the caption file; ``captions.txt``, ``.tsv`` or ``.csv`` in the folder where it is not given
            and there is one.

    Raises:
        CrossAlignError: the folder or the caption file is missing, or there are no photos.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CrossAlignError(f"{root}: no such folder")
    names = _files(root)
    photos = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    if not photos:
        raise CrossAlignError(f"{root}: no photos ({', '.join(IMAGE_SUFFIXES)})")
    source = Source(root, images=[ImageRecord(name, name, 0, 0) for name in photos])
    source.provenance = {"format": "folder", "folder": str(root.resolve())}
    given = (
        Path(captions)
        if captions is not None
        else next((root / n for n in CAPTION_FILES if n in names), None)
    )
    if given is None:
        _read_beside(source, root, names, photos)
    else:
        if not given.is_file():
            raise CrossAlignError(f"{given}: no such file of captions")
        source.provenance["files"] = {str(given.resolve()): file_digest(given)}
        _read_caption_file(source, given, set(photos))
    return source


def _files(root: Path) -> list[str]:
    """Every file that is not hidden, relative to ``root``, in a fixed order.

    Links are followed; a folder reached twice is listed once, under its real place where that is within ``root``,
    so that circles of links end.
    """
    found = []
    seen: set[tuple[int, int]] = set()
    folders, links = deque([""]), deque[str]()
    while folders or links:
        # Real folders first: what a link leads to keeps its own name.
        here = folders.popleft() if folders else links.popleft()
        try:
            state = (root / here).stat()
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(root / here) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise CrossAlignError(
                f"{root / here}: folder cannot be listed ({error.strerror}); mend its permissions or move it away"
            ) from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry.path):
                (links if entry.is_symlink() else folders).append(f"{here}{entry.name}/")
            else:
                found.append(f"{here}{entry.name}")
    return sorted(found)


def _read_caption_file(source: Source, path: Path, photos: set[str]) -> None:
    captions_of: Counter[str] = Counter()
    for number, line in read_lines(path):
        where = f"{path.name} line {number}"
        if line is None:
            source.add_problem(NOT_UTF8_CAPTION, where)
            continue
        if not line.strip() or (number == 1 and _HEADER.fullmatch(line)):
            continue
        parts = _parse_line(line)
        if parts is None:
            source.add_problem(MALFORMED, f"{where} (not 'name<TAB>caption' or 'name.jpg,caption')")
            continue
        name, text = parts
        numbered = _NUMBERED.fullmatch(name)
        image_id = tidy_path(numbered["name"] if numbered and name not in photos else name)
        caption_id = name if numbered and name not in photos else f"{image_id}#{captions_of[image_id]}"
        captions_of[image_id] += 1
        if image_id not in photos and captions_of[image_id] == 1:
            # Captioned but absent from the folder: the check of the photos reports it once, by its name.
            source.images.append(ImageRecord(image_id, image_id, 0, 0))
        source.captions.append(CaptionRecord(caption_id, image_id, text.strip(), ""))


def _parse_line(line: str) -> tuple[str, str] | None:
    name, tab, text = line.partition("\t")
    if tab and name.strip():
        return name.strip(), text
    match = _COMMA_LINE.fullmatch(line)
    return (match["name"].strip(), _unquoted(match["caption"].strip())) if match else None


def _unquoted(text: str) -> str:
    """The content of a field in quotation marks, as spreadsheets write one; any other text as it is."""
    if len(text) >= 2 and text[0] == text[-1] == '"' and '"' not in text[1:-1].replace('""', ""):
        return next(csv.reader([text]))[0]
    return text


def _read_beside(source: Source, root: Path, names: list[str], photos: list[str]) -> None:
    stems = {photo.rpartition(".")[0] for photo in photos}
    texts = {name.removesuffix(".txt"): name for name in names if name.endswith(".txt")}
    for stem, name in texts.items():
        if stem not in stems:
            source.add_problem(UNKNOWN_IMAGE, name)
    for photo in photos:
        beside = texts.get(photo.rpartition(".")[0])
        lines = [] if beside is None else [(n, line) for n, line in read_lines(root / beside) if line != ""]
        good = []
        for number, line in lines:
            if line is None:
                source.add_problem(NOT_UTF8_CAPTION, f"{beside} line {number}")
            elif line.strip():
                good.append(line)
        source.add_captions(photo, good, "")
