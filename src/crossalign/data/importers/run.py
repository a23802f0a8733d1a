"""From a source to a collection: checks, splits, and writing whole or not at all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from crossalign import __version__
from crossalign.data.collection import Collection
from crossalign.data.importers.checks import SourceProblemsError, check_source, ids_of_photos
from crossalign.data.importers.source import Source
from crossalign.data.importers.splits import SplitChoice, assign_splits, without_splits
from crossalign.data.tables import check_target
from crossalign.errors import CrossAlignError

__all__ = ["checked_source", "import_source"]


def checked_source(
    source: Source, *, called: str, splits: SplitChoice, skip_bad: bool = False, progress: bool = False
) -> Source:
    """The source without its bad parts and with splits; what was left out is counted in its provenance.

    Args:
        called: what messages call the source, such as its file name.

    Raises:
        SourceProblemsError: something is wrong with the source and ``skip_bad`` is false.
        CrossAlignError: nothing good is left, or there are no splits.
    """
    try:
        source = without_splits(source, splits)
    except CrossAlignError as error:
        raise CrossAlignError(f"{called}: {error}") from None
    if source.image_root is not None and not source.image_root.is_dir():
        raise CrossAlignError(
            f"{source.image_root}: no such folder of images; say where the photos are (--images)"
        )
    good = check_source(source, progress=progress)
    if good.problems and not skip_bad:
        raise SourceProblemsError(called, good.problems)
    if not good.captions:
        left = ", all of them were left out" if good.problems else ""
        raise CrossAlignError(
            f"{called}: no images with captions{left}; check that this is the right file and format"
        )
    if splits.sizes:
        good.captions = assign_splits(good.captions, ids_of_photos(good, good.images), splits)
    good.provenance = {
        **source.provenance,
        "program": f"crossalign {__version__}",
        "splits": {"name": splits.name, "sizes": splits.sizes, "seed": splits.seed}
        if splits.given
        else "source",
        "skipped": dict(Counter(problem.kind for problem in good.problems)),
    }
    return good


def import_source(
    source: Source,
    out: str | Path,
    *,
    called: str,
    splits: SplitChoice | None = None,
    name: str | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Collection:
    """Write a source as a collection; nothing is written when anything is wrong with it.

    Args:
        called: what messages call the source, such as its file name.
        splits: splits to give in place of the source's own.
        name: the collection's name; the name of ``out`` where it is not given.
        skip_bad: leave bad images and captions out instead of failing.

    Raises:
        SourceProblemsError: something is wrong with the source and ``skip_bad`` is false.
        CrossAlignError: ``out`` exists, nothing good is left, or there are no splits.
    """
    out = Path(out)
    check_target(out, overwrite)
    good = checked_source(
        source, called=called, splits=splits or SplitChoice(), skip_bad=skip_bad, progress=progress
    )
    return Collection.write(
        out,
        name=name or out.resolve().name,
        image_root=good.image_root,
        images=good.images,
        captions=good.captions,
        provenance=good.provenance,
        overwrite=overwrite,
    )
