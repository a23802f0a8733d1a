"""Phrases and boxes in the layout of Flickr30k Entities (Plummer et al., ICCV 2015): Sentences and Annotations."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from crossalign.errors import CrossAlignError

__all__ = ["EntityPhrase", "EntitySentence", "read_annotations", "read_entities", "read_sentences"]

Box = tuple[float, float, float, float]
_LARGEST_FILE = 4_000_000
_PHRASE = re.compile(r"\[/EN#(?P<chain>[^/\s\]]+)/(?P<kinds>[^\s\]]+)\s+(?P<words>[^\[\]]+)\]")


@dataclass(frozen=True)
class EntityPhrase:
    """A phrase of a sentence: its first character, its last plus one, its kind such as "people", its boxes."""

    start: int
    end: int
    kind: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class EntitySentence:
    """A sentence without its marks, and the phrases in it that have boxes."""

    text: str
    phrases: tuple[EntityPhrase, ...]


def read_entities(folder: str | Path, names: Iterable[str]) -> dict[str, tuple[EntitySentence, ...]]:
    """By name of a photo without its ending, its sentences; photos without files in the folder are left out.

    The folder holds ``Sentences/NAME.txt`` and ``Annotations/NAME.xml``.

    Raises:
        CrossAlignError: no such folders, a damaged file, a photo with one of the two files only, no file for any
            photo.
    """
    folder = Path(folder)
    for part in ("Sentences", "Annotations"):
        if not (folder / part).is_dir():
            raise CrossAlignError(
                f"{folder}: no folder '{part}' in it; give the folder of Flickr30k Entities"
            )
    found = {}
    for name in names:
        told, boxed = folder / "Sentences" / f"{name}.txt", folder / "Annotations" / f"{name}.xml"
        if told.is_file() and boxed.is_file():
            found[name] = read_sentences(told, read_annotations(boxed))
        elif told.is_file() or boxed.is_file():
            missing = boxed if told.is_file() else told
            raise CrossAlignError(f"{missing}: no such file, though the other one of '{name}' is there")
    if not found:
        raise CrossAlignError(f"{folder}: no sentences of any of these photos; is it for another collection?")
    return found


def read_sentences(path: Path, boxes: dict[str, tuple[Box, ...]]) -> tuple[EntitySentence, ...]:
    """The sentences of one file; a phrase is marked as ``[/EN#chain/kind the words]``.

    Args:
        boxes: by chain, its boxes; phrases of other chains are left out.

    Raises:
        CrossAlignError: too large, not UTF-8, or a mark that is not of this form.
    """
    try:
        lines = _content(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CrossAlignError(f"{path}: not UTF-8 (byte {error.start}); fetch it again") from None
    return tuple(
        _sentence(line, boxes, f"{path} line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )


def _sentence(line: str, boxes: dict[str, tuple[Box, ...]], place: str) -> EntitySentence:
    text, phrases, end = "", [], 0
    for mark in _PHRASE.finditer(line):
        text += line[end : mark.start()]
        words = mark["words"].strip()
        chain, kind = mark["chain"], mark["kinds"].partition("/")[0]
        if chain in boxes:
            phrases.append(EntityPhrase(len(text), len(text) + len(words), kind, boxes[chain]))
        text += words
        end = mark.end()
    text += line[end:]
    if "[/" in text or "/EN#" in text:
        raise CrossAlignError(f"{place}: a mark is not of the form [/EN#1/people the words]; fetch it again")
    return EntitySentence(text, tuple(phrases))


class _Builder(ElementTree.TreeBuilder):
    """Refuses what annotations never have and attacks on parsers begin with."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise CrossAlignError(f"document type '{name}'")


def read_annotations(path: Path) -> dict[str, tuple[Box, ...]]:
    """By chain, the relative xyxy boxes of one photo; chains without a box are left out.

    Raises:
        CrossAlignError: too large, not XML, with a document type, or without sizes and boxes of the right form.
    """
    parser = ElementTree.XMLParser(target=_Builder())
    try:
        root = ElementTree.fromstring(_content(path), parser)
    except ElementTree.ParseError as error:
        raise CrossAlignError(f"{path}: not XML ({error}); fetch it again") from None
    except (CrossAlignError, ValueError, LookupError) as error:
        raise CrossAlignError(f"{path}: not an annotation ({error}); fetch it again") from None
    width, height = (_number(root, f"size/{key}", path) for key in ("width", "height"))
    if width <= 0 or height <= 0:
        raise CrossAlignError(f"{path}: a photo of {width:g} x {height:g} pixels; fetch it again")
    found: defaultdict[str, list[Box]] = defaultdict(list)
    for item in root.iter("object"):
        chains = [name.text.strip() for name in item.findall("name") if name.text]
        if not chains:
            raise CrossAlignError(f"{path}: an object without a name; fetch it again")
        for corners in item.findall("bndbox"):
            left, top, right, bottom = (
                _number(corners, key, path) for key in ("xmin", "ymin", "xmax", "ymax")
            )
            if not (left < right and top < bottom):
                raise CrossAlignError(f"{path}: the box of '{chains[0]}' is empty; fetch it again")
            for chain in chains:
                found[chain].append(_clipped(left / width, top / height, right / width, bottom / height))
    return {chain: tuple(boxes) for chain, boxes in found.items()}


def _clipped(*corners: float) -> Box:
    left, top, right, bottom = (min(max(corner, 0.0), 1.0) for corner in corners)
    return left, top, right, bottom


def _number(parent: ElementTree.Element, key: str, path: Path) -> float:
    text = parent.findtext(key)
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e6:
        raise CrossAlignError(f"{path}: {key} is {text!r}, not a number of pixels; fetch it again")
    return value


def _content(path: Path) -> bytes:
    if path.stat().st_size > _LARGEST_FILE:
        raise CrossAlignError(
            f"{path}: larger than {_LARGEST_FILE // 1_000_000} MB, not a file of Flickr30k Entities"
        )
    return path.read_bytes()
