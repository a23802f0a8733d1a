"""Bringing a store in line with a folder of photos, in steps that leave nothing wrong when cut off."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL.Image import Image

from crossalign.errors import CrossAlignError
from crossalign.progress import progress_bar
from crossalign.search.catalogue import PhotoEntry, read_catalogue
from crossalign.search.opening import Embedder
from crossalign.search.reading import PIXELS_AT_ONCE, Reading, read_ahead, read_photo
from crossalign.search.scan import Failure, Scan
from crossalign.search.store import VectorStore

__all__ = ["Plan", "StoreUpdate", "plan_update"]

_SMALL_STEP = 256
_Item = tuple[str, PhotoEntry, np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Plan:
    """What differs between store and folder by size and time alone: files to read, photos that are gone."""

    known: dict[str, PhotoEntry]
    to_read: list[str]
    gone: set[str]

    @property
    def empty(self) -> bool:
        """Whether nothing is to be done."""
        return not self.to_read and not self.gone


def plan_update(store: VectorStore, scan: Scan) -> Plan:
    """Compare what the store holds with what the scan found."""
    known = read_catalogue(store)
    to_read = [
        file for file, state in scan.files.items() if file not in known or not known[file].matches(state)
    ]
    return Plan(known, to_read, {file for file in known if file not in scan.files and scan.covers(file)})


class StoreUpdate:
    """Carries out a plan in steps. After each step every stored photo is whole, and none is there twice.

    Attributes:
        counts: photos ``added``, ``changed``, ``renamed``, ``removed`` so far.
        failures: photos that could not be read; what the store held of them is removed.
    """

    def __init__(
        self, store: VectorStore, model: Embedder, folder: Path, plan: Plan, *, batch_size: int = 32
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self._store = store
        self._model = model
        self._folder = folder
        self._plan = plan
        self._batch_size = batch_size
        self._gone = set(plan.gone)
        self._homes = {entry.sha256: file for file, entry in plan.known.items()}
        # What the next step writes: photos to embed, photos whose content is stored already, new times.
        self._new: list[tuple[Reading, Image]] = []
        self._copies: list[Reading] = []
        self._touched: dict[str, dict[str, int]] = {}

    def run(self, progress: bool = False) -> None:
        """Read, embed and store everything the plan asks for, then remove what is gone.

        Raises:
            CrossAlignError: the model or the store failed; the steps done so far stay.
        """
        with progress_bar(progress and bool(self._plan.to_read)) as bar:
            task = bar.add_task("index photos", total=len(self._plan.to_read), status="")
            for reading in read_ahead(self._folder, self._plan.to_read, self._is_unknown):
                self._take(reading)
                if self._is_full():
                    self._step()
                bar.update(
                    task, advance=1, status=f"{len(self.failures)} unreadable" if self.failures else ""
                )
            self._step()
            self.counts["removed"] += len(self._gone)
            stale = {failure.file for failure in self.failures} & self._plan.known.keys()
            self._store.delete(sorted(self._gone | stale))
            bar.update(task, status="arranging")
            self._store.optimize()
            self._store.flush()

    def _is_unknown(self, file: str, sha256: str) -> bool:
        return sha256 not in self._homes

    def _take(self, reading: Reading) -> None:
        """Put one photo where the next step finds it."""
        entry = self._plan.known.get(reading.file)
        if reading.problem is not None:
            self.failures.append(Failure(reading.file, reading.problem))
        elif reading.image is not None:
            self._new.append((reading, reading.image))
        elif entry is not None and entry.sha256 == reading.sha256:
            self._touched[reading.file] = {"mtime_ns": reading.mtime_ns}
        else:
            self._copies.append(reading)

    def _is_full(self) -> bool:
        return (
            len(self._new) >= self._batch_size
            or sum(image.width * image.height for _, image in self._new) >= PIXELS_AT_ONCE
            or max(len(self._copies), len(self._touched)) >= _SMALL_STEP
        )

    def _step(self) -> None:
        """Write what has been gathered."""
        items, moved = self._reuse()
        items += self._embed()
        # The old place goes first: cut off in between, a photo is missing until the next run, never doubled.
        self._store.delete(moved)
        if items:
            files, entries, vectors, alone = zip(*items, strict=True)
            self._store.upsert(
                files,
                np.stack(vectors),
                [entry.payload() for entry in entries],
                None if self._store.uni is None else np.stack(alone),
            )
        self._store.update_payloads(self._touched)
        self._homes.update({entry.sha256: file for file, entry, *_ in items})
        self._new, self._copies, self._touched = [], [], {}

    def _reuse(self) -> tuple[list[_Item], list[str]]:
        """Copied and renamed photos with the embeddings stored already, and the old places of the renamed."""
        items: list[_Item] = []
        moved: list[str] = []
        stored = self._store.fetch(sorted({self._homes[reading.sha256] for reading in self._copies}))
        for reading in self._copies:
            record = stored.get(self._homes[reading.sha256])
            if record is None or record.vectors is None or record.payload["sha256"] != reading.sha256:
                # The photo with this content has been overwritten by an earlier step.
                self._take(read_photo(self._folder, reading.file))
                continue
            was = PhotoEntry.from_payload(record.payload)
            entry = PhotoEntry.from_reading(reading, was.width, was.height)
            items.append((reading.file, entry, record.vectors, record.uni))
            if record.id not in self._gone:
                self._count(reading.file)
                continue
            self._gone.remove(record.id)
            moved.append(record.id)
            if reading.file in self._plan.known:
                self.counts.update(["changed", "removed"])
            else:
                self.counts["renamed"] += 1
        return items, moved

    def _embed(self) -> list[_Item]:
        """Photos with new content and their embeddings."""
        if not self._new:
            return []
        embedded = self._model.images([image for _, image in self._new])
        embeddings = embedded.cross
        if embeddings.shape[1:] != (self._store.views, self._store.dim):
            raise CrossAlignError(
                f"the model gave {embeddings.shape[1]} embeddings of width {embeddings.shape[2]} a photo, "
                f"the index holds {self._store.views} of {self._store.dim}; "
                "build it again with 'crossalign index --rebuild'"
            )
        items: list[_Item] = []
        for place, (reading, image) in enumerate(self._new):
            entry = PhotoEntry.from_reading(reading, image.width, image.height)
            alone = None if embedded.uni is None else embedded.uni[place]
            items.append((reading.file, entry, embeddings[place], alone))
            self._count(reading.file)
        return items

    def _count(self, file: str) -> None:
        self.counts["changed" if file in self._plan.known else "added"] += 1
