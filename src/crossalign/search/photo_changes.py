"""Photos of a folder as what an index follows: what has been copied, renamed or touched is not embedded again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from crossalign.search.catalogue import PhotoEntry, read_catalogue
from crossalign.search.content import Item, Step, Wanted, embedded_items
from crossalign.search.embedder import Embedder
from crossalign.search.models import Embedded, EmbeddingModel, embed_images
from crossalign.search.reading import PIXELS_AT_ONCE, Reading, read_ahead, read_photo
from crossalign.search.scan import Failure, Scan
from crossalign.search.store import VectorStore

__all__ = ["PhotoChanges", "PhotoContent"]

_SMALL_STEP = 256


@dataclass(frozen=True)
class PhotoContent:
    """The photos that a scan found, and what their index is asked to be."""

    wanted: Wanted
    scan: Scan
    batch_size: int = 32

    def sample(self, model: EmbeddingModel) -> Embedded:
        """A black picture, embedded."""
        return embed_images(model, [Image.new("RGB", (64, 64))])

    def changes(self, store: VectorStore) -> PhotoChanges:
        """Compare with what a store holds, by size and time alone."""
        return PhotoChanges(Path(self.wanted.photos), self.scan, read_catalogue(store), self.batch_size)


class PhotoChanges:
    """What differs between the photos of a store and those of their folder.

    Attributes:
        counts: photos ``added``, ``changed``, ``renamed``, ``removed`` so far.
        failures: photos that could not be read; what the store held of them is removed.
    """

    def __init__(self, folder: Path, scan: Scan, known: dict[str, PhotoEntry], batch_size: int) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self._folder = folder
        self._known = known
        self._batch_size = batch_size
        self._to_read = [
            file for file, state in scan.files.items() if file not in known or not known[file].matches(state)
        ]
        self._gone = {file for file in known if file not in scan.files and scan.covers(file)}
        self._homes = {entry.sha256: file for file, entry in known.items()}
        # What the next step writes: photos to embed, photos whose content is stored already, new times.
        self._new: list[tuple[Reading, Image.Image]] = []
        self._copies: list[Reading] = []
        self._touched: dict[str, dict[str, int]] = {}
        self._taken = 0

    @property
    def empty(self) -> bool:
        """Whether nothing is to be done."""
        return not self._to_read and not self._gone

    @property
    def total(self) -> int:
        """Photos to read."""
        return len(self._to_read)

    def steps(self, store: VectorStore, model: Embedder) -> Generator[Step, None, None]:
        """Read and embed what is new or changed, then remove what is gone."""
        for reading in read_ahead(self._folder, self._to_read, self._is_unknown):
            self._take(reading)
            self._taken += 1
            if self._is_full():
                yield from self._step(store, model)
        yield from self._step(store, model)
        self.counts["removed"] += len(self._gone)
        stale = {failure.file for failure in self.failures} & self._known.keys()
        yield Step(gone=sorted(self._gone | stale), status=self._status())

    def _is_unknown(self, file: str, sha256: str) -> bool:
        return sha256 not in self._homes

    def _take(self, reading: Reading) -> None:
        """Put one photo where the next step finds it."""
        entry = self._known.get(reading.file)
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
            or self._taken - len(self._new) >= _SMALL_STEP
        )

    def _step(self, store: VectorStore, model: Embedder) -> Generator[Step, None, None]:
        """Write what has been gathered."""
        items, moved = self._reuse(store)
        items += self._embed(model)
        yield Step(moved, items, self._touched, self._taken, self._status())
        # Only what has been written can be copied from.
        self._homes.update({item.payload["sha256"]: item.id for item in items})
        self._new, self._copies, self._touched, self._taken = [], [], {}, 0

    def _status(self) -> str:
        return f"{len(self.failures)} unreadable" if self.failures else ""

    def _reuse(self, store: VectorStore) -> tuple[list[Item], list[str]]:
        """Copied and renamed photos with the embeddings stored already, and the old places of the renamed."""
        items: list[Item] = []
        moved: list[str] = []
        stored = store.fetch(sorted({self._homes[reading.sha256] for reading in self._copies}))
        for reading in self._copies:
            record = stored.get(self._homes[reading.sha256])
            if record is None or record.vectors is None or record.payload["sha256"] != reading.sha256:
                # The photo with this content has been overwritten by an earlier step.
                self._take(read_photo(self._folder, reading.file))
                continue
            was = PhotoEntry.from_payload(record.payload)
            entry = PhotoEntry.from_reading(reading, was.width, was.height)
            items.append(Item(reading.file, entry.payload(), record.vectors, record.uni))
            if record.id not in self._gone:
                self._count(reading.file)
                continue
            self._gone.remove(record.id)
            moved.append(record.id)
            if reading.file in self._known:
                self.counts.update(["changed", "removed"])
            else:
                self.counts["renamed"] += 1
        return items, moved

    def _embed(self, model: Embedder) -> list[Item]:
        """Photos with new content and their embeddings."""
        if not self._new:
            return []
        embedded = model.images([image for _, image in self._new])
        entries = [PhotoEntry.from_reading(reading, *image.size) for reading, image in self._new]
        for reading, _ in self._new:
            self._count(reading.file)
        return embedded_items(
            [reading.file for reading, _ in self._new], [entry.payload() for entry in entries], embedded
        )

    def _count(self, file: str) -> None:
        self.counts["changed" if file in self._known else "added"] += 1
