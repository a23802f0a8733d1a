"""The checks that every source goes through: all problems are found before any is reported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from crossalign.data.collection import CaptionRecord, ImageRecord
from crossalign.data.importers import source as kinds
from crossalign.data.importers.photos import photo_sizes
from crossalign.data.importers.source import Problem, Source, is_utf8
from crossalign.errors import CrossAlignError, printable

__all__ = ["SourceProblemsError", "check_source", "ids_of_photos", "problem_report"]

NAMES_SHOWN = 10


class SourceProblemsError(CrossAlignError):
    """What is wrong with a source, kind by kind; nothing was written."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        first = f"{source}: {count}, nothing was written; mend them, or leave them out with --skip-bad"
        super().__init__("\n".join([first, *problem_report(problems)]))
        self.problems = tuple(problems)


def problem_report(problems: Sequence[Problem]) -> list[str]:
    """One line for every kind of problem: how many, and the first names."""
    lines = []
    for kind, names in group_problems(problems).items():
        more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        lines.append(f"  {kind} ({len(names)}): {', '.join(names[:NAMES_SHOWN])}{more}")
    return lines


def group_problems(problems: Sequence[Problem]) -> dict[str, list[str]]:
    """The names of every kind of problem, in the order found and fit for a terminal."""
    groups: dict[str, list[str]] = {}
    for problem in problems:
        groups.setdefault(problem.kind, []).append(printable(problem.name))
    return groups


def check_source(source: Source, *, progress: bool = False) -> Source:
    """The good part of a source, with image sizes filled in; its ``problems`` name all that was left out.

    What follows from a problem is not reported again: the captions of a missing photo are left out with it.
    """
    problems = list(source.problems)
    images, ambiguous = _distinct_images(source.images, problems)
    bad = ambiguous | _bad_names(images, problems)
    images = [image for image in images if image.id not in bad]
    known = {image.id for image in images}
    captions = _good_captions(source.captions, known, bad, problems)
    if source.image_root is not None:
        images = _readable_images(source, images, problems, progress=progress)
    images = _photos_of_one_split(source, images, captions, problems)
    described = {caption.image_id for caption in captions}
    problems += [Problem(kinds.CAPTIONLESS, image.id) for image in images if image.id not in described]
    images = [image for image in images if image.id in described]
    left = {image.id for image in images}
    captions = [caption for caption in captions if caption.image_id in left]
    return replace(source, images=images, captions=captions, problems=problems)


def ids_of_photos(source: Source, images: Sequence[ImageRecord]) -> dict[str, str]:
    """For every image one id of its photo: the least of all that show it, links followed; its own without photos."""
    if source.image_root is None:
        return {image.id: image.id for image in images}
    photos = {image.id: os.path.realpath(source.image_root / image.file) for image in images}
    least: dict[str, str] = {}
    for image_id, photo in photos.items():
        least[photo] = min(image_id, least.get(photo, image_id))
    return {image_id: least[photo] for image_id, photo in photos.items()}


def _distinct_images(
    images: Sequence[ImageRecord], problems: list[Problem]
) -> tuple[list[ImageRecord], set[str]]:
    """One record an id; an id of several files is ambiguous, and none of its captions can be trusted."""
    first: dict[str, ImageRecord] = {}
    files: dict[str, dict[str, None]] = {}
    labels: dict[str, dict[str, None]] = {}
    for image in images:
        if image.id not in first or first[image.id].label is None:
            first[image.id] = image
        files.setdefault(image.id, {})[image.file] = None
        if image.label is not None:
            labels.setdefault(image.id, {})[image.label] = None
    ambiguous = {image_id for image_id, names in files.items() if len(names) > 1}
    for image_id, names in files.items():
        if image_id in ambiguous:
            problems.append(Problem(kinds.DUPLICATE_IMAGE, f"{image_id} ({' and '.join(names)})"))
    for image_id, names in labels.items():
        if len(names) > 1:
            problems.append(Problem(kinds.SEVERAL_LABELS, f"{image_id} ({' and '.join(names)})"))
            ambiguous.add(image_id)
    return list(first.values()), ambiguous


def _bad_names(images: Sequence[ImageRecord], problems: list[Problem]) -> set[str]:
    bad = [i for i in images if not i.id.strip() or not all(map(is_utf8, (i.id, i.file, i.label or "")))]
    problems += [
        Problem(kinds.NOT_UTF8_NAME if i.id.strip() else kinds.MALFORMED, i.file or i.id) for i in bad
    ]
    return {image.id for image in bad}


def _good_captions(
    captions: Sequence[CaptionRecord], known: set[str], bad: set[str], problems: list[Problem]
) -> list[CaptionRecord]:
    good: list[CaptionRecord] = []
    ids: set[str] = set()
    split_of: dict[str, str] = {}
    leaking: dict[str, None] = {}
    for caption in captions:
        if caption.image_id in bad:
            continue
        kind = None
        first_split = split_of.get(caption.image_id, caption.split)
        if caption.image_id not in known:
            kind = kinds.UNKNOWN_IMAGE
        elif not all(map(is_utf8, (caption.id, caption.text, caption.split))):
            kind = kinds.NOT_UTF8_CAPTION
        elif not caption.text:
            kind = kinds.EMPTY_CAPTION
        elif first_split != caption.split:
            leaking[f"{caption.image_id} ({first_split} and {caption.split})"] = None
            continue
        elif caption.id in ids:
            kind = kinds.DUPLICATE_CAPTION
        if kind is not None:
            whose = "" if caption.id.startswith(f"{caption.image_id}#") else f" of {caption.image_id}"
            problems.append(Problem(kind, caption.id + whose))
            continue
        ids.add(caption.id)
        split_of[caption.image_id] = caption.split
        good.append(caption)
    problems += [Problem(kinds.SEVERAL_SPLITS, name) for name in leaking]
    return good


def _photos_of_one_split(
    source: Source, images: Sequence[ImageRecord], captions: Sequence[CaptionRecord], problems: list[Problem]
) -> list[ImageRecord]:
    """The images less those whose photo is already in another split under another id."""
    split_of = {caption.image_id: caption.split for caption in captions}
    used: dict[str, ImageRecord] = {}
    photo_of = ids_of_photos(source, images)
    good = []
    for image in images:
        if image.id in split_of:
            first = used.setdefault(photo_of[image.id], image)
            if split_of[first.id] != split_of[image.id]:
                where = f"{first.id} in {split_of[first.id]}, {image.id} in {split_of[image.id]}"
                problems.append(Problem(kinds.SEVERAL_SPLITS, f"{image.file} ({where})"))
                continue
        good.append(image)
    return good


def _readable_images(
    source: Source, images: Sequence[ImageRecord], problems: list[Problem], *, progress: bool
) -> list[ImageRecord]:
    assert source.image_root is not None
    good = []
    for image, found in zip(
        images, photo_sizes(source.image_root, [i.file for i in images], progress=progress), strict=True
    ):
        if isinstance(found, Problem):
            problems.append(found)
        else:
            good.append(replace(image, width=found[0], height=found[1]))
    return good
