"""Correlation with human judgements of whether a caption describes a photo: the expert and crowd files of Flickr8k."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from crossalign.errors import CrossAlignError
from crossalign.evaluation.correlation import kendall
from crossalign.suite.text_files import finite, open_text

__all__ = ["Judgements", "judgement_correlation", "rated_pairs", "read_judgements"]

EXPERT, CROWD = "ExpertAnnotations.txt", "CrowdFlowerAnnotations.txt"


@dataclass(frozen=True, eq=False)
class Judgements:
    """Pairs of a photo and a caption with what people say of them.

    Attributes:
        name: ``expert`` or ``crowd``.
        variant: of Kendall's tau that the field reports.
        images: ``(p,)`` file names.
        captions: ``(p,)`` as ``FILE#NUMBER``: which caption of which photo.
        ratings: ``(p, r)`` r judgements of each pair: three of experts on a scale of 1 to 4, or the one share of the
            crowd that says that the caption describes the photo.
    """

    name: Literal["expert", "crowd"]
    variant: Literal["b", "c"]
    images: tuple[str, ...]
    captions: tuple[str, ...]
    ratings: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def title(self) -> str:
        """Of the part of an evaluation that they make."""
        return f"Human judgements, {'experts' if self.name == 'expert' else 'crowd'}"

    @cached_property
    def owners(self) -> tuple[str, ...]:
        """``(p,)`` file name of the photo that each caption was written for."""
        return tuple(place.rpartition("#")[0] for place in self.captions)


def read_judgements(folder: str | Path) -> list[Judgements]:
    """The judgements that a folder has: experts', the crowd's, or both; each file plain or as ``.gz``.

    Raises:
        CrossAlignError: neither is there, or a file is damaged.
    """
    folder = Path(folder)
    found: list[Judgements] = []
    for file, name, variant, columns in (
        (EXPERT, "expert", "c", slice(2, 5)),
        (CROWD, "crowd", "b", slice(2, 3)),
    ):
        path = next((place for place in (folder / file, folder / f"{file}.gz") if place.is_file()), None)
        if path is not None:
            found.append(_read(path, name, variant, columns))  # type: ignore[arg-type]
    if not found:
        raise CrossAlignError(
            f"{folder}: neither {EXPERT} nor {CROWD} (or .gz); name the folder that has one of them"
        )
    return found


def rated_pairs(judgements: Judgements, texts: Mapping[str, str]) -> npt.NDArray[np.bool_]:
    """``(p,)`` which pairs count: of experts not those whose caption is word for word one of the photo's own.

    As in CLIPScore (Hessel et al., EMNLP 2021, appendix A) and SPICE before it; of the crowd all count.

    Args:
        texts: the words of every caption of the judged photos and of the judged captions, by ``FILE#NUMBER``.
    """
    if judgements.name == "crowd":
        return np.ones(len(judgements), bool)
    own: dict[str, set[str]] = {}
    for name, text in texts.items():
        own.setdefault(name.rpartition("#")[0], set()).add(text)
    pairs = zip(judgements.images, judgements.captions, strict=True)
    return np.array([texts[caption] not in own.get(image, ()) for image, caption in pairs])


def judgement_correlation(
    judgements: Judgements, similarity: npt.NDArray[np.floating], kept: npt.NDArray[np.bool_]
) -> tuple[float, int]:
    """Kendall's tau of similarities with judgements, in percent, and the number of judgements.

    As CLIPScore does: every expert's judgement counts by itself, by tau-c; the crowd's mean counts, by tau-b.

    Args:
        similarity: ``(p,)`` what the model says of each pair.
        kept: ``(p,)`` which pairs count.

    Raises:
        CrossAlignError: too few pairs, similarities that are not finite.
    """
    ratings = judgements.ratings[kept]
    repeated = np.repeat(np.asarray(similarity, np.float64)[kept], ratings.shape[1])
    return kendall(repeated, ratings.ravel(), judgements.variant), ratings.size


def _read(
    path: Path, name: Literal["expert", "crowd"], variant: Literal["b", "c"], columns: slice
) -> Judgements:
    images, captions, ratings = [], [], []
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, start=1):
                fields = line.rstrip("\r\n").split("\t")
                if len(fields) != 5 or not fields[1].rpartition("#")[2].isdecimal():
                    raise CrossAlignError(
                        f"{path}: line {number} is no photo, caption and judgements; put the file back"
                    )
                images.append(fields[0])
                captions.append(fields[1])
                ratings.append([_number(text, path, number) for text in fields[columns]])
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise CrossAlignError(f"{path}: cannot be read ({reason}); put the file back") from None
    if not images:
        raise CrossAlignError(f"{path}: empty; put the file back")
    return Judgements(name, variant, tuple(images), tuple(captions), np.array(ratings))


def _number(text: str, path: Path, line: int) -> float:
    value = finite(text)
    if value is None:
        raise CrossAlignError(f"{path}: line {line}: '{text[:40]}' is no judgement; put the file back")
    return value
