"""Giving splits to a source that has none, or other splits than its own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from crossalign.data.collection import CaptionRecord
from crossalign.data.importers.source import Source
from crossalign.errors import CrossAlignError

__all__ = ["SplitChoice", "assign_splits", "parse_sizes"]


@dataclass(frozen=True)
class SplitChoice:
    """What the user said about splits: one for everything, or sizes of those beside ``train``, or nothing.

    A size below 1 is a fraction of the images, from 1 on a number of images.
    """

    name: str | None = None
    sizes: dict[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name is not None and self.sizes:
            raise CrossAlignError("--split and --split-sizes exclude each other; give one of them")
        if self.name is not None and not self.name.strip():
            raise CrossAlignError("--split: the name is empty")

    @property
    def given(self) -> bool:
        """Whether the source's own splits are to be replaced."""
        return self.name is not None or bool(self.sizes)


def parse_sizes(text: str) -> dict[str, float]:
    """Read ``'val=0.1,test=1000'``.

    Raises:
        CrossAlignError: the text has another form, names ``train`` (which gets the rest), or has a bad size.
    """
    sizes: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        try:
            size = float(number)
        except ValueError:
            size = math.nan
        whole = size < 1 or size == int(size) if math.isfinite(size) else False
        if not name or not size > 0 or not whole or name in sizes:
            raise CrossAlignError(
                f"--split-sizes: '{part.strip()}' is not NAME=SIZE; write 'val=0.1,test=0.1' (fractions) or "
                "'val=1000,test=1000' (images)"
            )
        if name == "train":
            raise CrossAlignError(
                "--split-sizes: 'train' gets the images that are left; give the others only"
            )
        sizes[name] = size
    return sizes


def without_splits(source: Source, choice: SplitChoice) -> Source:
    """The source with the one split that was chosen, or with none where splits are drawn later.

    Raises:
        CrossAlignError: nothing was chosen and the source has no splits.
    """
    if not choice.given:
        unknown = next((caption.id for caption in source.captions if not caption.split), None)
        if unknown is not None:
            raise CrossAlignError(
                f"it does not say which split caption '{unknown}' belongs to; give --split NAME to put all "
                "into one split, or --split-sizes 'val=0.1,test=0.1' to draw splits"
            )
        return source
    captions = [replace(caption, split=choice.name or "") for caption in source.captions]
    return replace(source, captions=captions)


def assign_splits(
    captions: Sequence[CaptionRecord], photo_of: Mapping[str, str], choice: SplitChoice
) -> list[CaptionRecord]:
    """Draw splits by image: the order of the images does not matter, only their ids and the seed.

    Args:
        photo_of: for every image the id that is drawn for it; images of one photo have one.

    Raises:
        CrossAlignError: the sizes leave a split, or ``train``, without an image.
    """
    drawn = sorted(
        set(photo_of.values()), key=lambda name: hashlib.sha256(f"{choice.seed}\n{name}".encode()).digest()
    )
    split_of = dict.fromkeys(drawn, "train")
    start = 0
    shares = sum(size for size in choice.sizes.values() if size < 1)
    if shares >= 1:
        raise CrossAlignError(
            f"--split-sizes: the fractions add up to {shares:g}, which leaves nothing for train; choose smaller ones"
        )
    for name, size in choice.sizes.items():
        count = round(size * len(drawn)) if size < 1 else int(size)
        if count < 1 or start + count >= len(drawn):
            raise CrossAlignError(
                f"--split-sizes: {len(drawn)} images are too few for '{name}={size:g}' and one of train; "
                "choose other sizes"
            )
        split_of.update(dict.fromkeys(drawn[start : start + count], name))
        start += count
    return [replace(caption, split=split_of[photo_of[caption.image_id]]) for caption in captions]
