"""An index: a folder that holds the embeddings of another folder's photos and follows its changes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crossalign.errors import CrossAlignError
from crossalign.search.bank import TEMPERATURE, bank_texts
from crossalign.search.content import Wanted
from crossalign.search.models import EmbeddingModel
from crossalign.search.photo_changes import PhotoContent
from crossalign.search.place import check_place, default_index
from crossalign.search.scan import PHOTO_SUFFIXES, Failure, scan_photos
from crossalign.search.update import bring_up_to_date

__all__ = ["IndexSummary", "update_index"]


@dataclass(frozen=True)
class IndexSummary:
    """What one run did, in photos.

    ``photos`` is how many the index holds now, ``width`` what embeddings are cut to, ``uni`` the width of the uni-modal
    ones beside them, ``bank`` how many texts the query bank has, ``vector_bytes`` what the vectors take.
    """

    index: str
    folder: str
    model: str | None
    fingerprint: str
    photos: int
    added: int
    changed: int
    renamed: int
    removed: int
    unchanged: int
    failed: int
    failures: tuple[Failure, ...]
    width: int | None = None
    uni: int | None = None
    bank: int | None = None
    vector_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def update_index(
    model: EmbeddingModel | str | Path,
    folder: str | Path,
    index: str | Path | None = None,
    *,
    rebuild: bool = False,
    width: int | None = None,
    bank: str | Path | None = None,
    bank_temperature: float | None = None,
    batch_size: int = 32,
    device: str = "auto",
    progress: bool = False,
) -> IndexSummary:
    """Make the index of a photo folder, or bring it up to date: only what is new, changed or gone is touched.

    May be killed at any moment: the index stays usable, and the next run finishes. Photos that cannot be read
    are left out and listed in the summary.

    Args:
        model: a model, its folder, or its Hub name.
        folder: photos, in any depth.
        index: folder of the index, :func:`~crossalign.search.place.default_index` if left out.
        rebuild: embed everything anew beside the present index, then swap; takes another model, folder or width.
        width: store embeddings cut to that many numbers, see :func:`~crossalign.truncation.truncate`; searches cut
            their queries alike. None: whole ones. Uni-modal ones stay whole.
        bank: texts that scores are corrected by, a file with a text a line or a collection, see
            :func:`~crossalign.search.bank.bank_texts`; None: none, or the one that the index has.
        bank_temperature: of the softmax over them, 0.1 if left out.
        batch_size: photos a step.
        device: where a model that is loaded here runs.
        progress: show a bar.

    Raises:
        CrossAlignError: no photos, a model, a folder, a width or a bank other than the index has, a width that the
            model's embeddings do not have, an index in use or damaged, a place that holds other things. Nothing in
            the place has been touched then.
    """
    photos = Path(folder).resolve()
    place = default_index(photos) if index is None else Path(index).resolve()
    check_place(photos, place)
    found = scan_photos(photos, skip=place)
    if not found.files and not found.failures:
        raise CrossAlignError(
            f"{photos}: no photos found ({' '.join(sorted(PHOTO_SUFFIXES))}); an index of it is left as it is"
        )
    if bank is None and bank_temperature is not None:
        raise CrossAlignError(
            f"--bank-temperature {bank_temperature:g}: nothing is corrected; give --bank too"
        )
    texts, entry = (
        ([], None)
        if bank is None
        else bank_texts(bank, TEMPERATURE if bank_temperature is None else bank_temperature)
    )
    wanted = Wanted(photos=str(photos), width=width, bank=entry, bank_texts=tuple(texts))
    manifest, changes = bring_up_to_date(
        PhotoContent(wanted, found, batch_size),
        place,
        model,
        rebuild=rebuild,
        device=device,
        progress=progress,
    )
    counts = changes.counts
    failures = tuple(found.failures + changes.failures)
    touched = counts["added"] + counts["changed"] + counts["renamed"] + len(changes.failures)
    return IndexSummary(
        index=str(place),
        folder=manifest.photos,
        model=manifest.model,
        fingerprint=manifest.fingerprint,
        photos=manifest.count,
        added=counts["added"],
        changed=counts["changed"],
        renamed=counts["renamed"],
        removed=counts["removed"],
        unchanged=len(found.files) - touched,
        failed=len(failures),
        failures=failures,
        width=manifest.width,
        uni=manifest.uni,
        bank=None if manifest.bank is None else manifest.bank.texts,
        vector_bytes=manifest.vector_bytes,
    )
