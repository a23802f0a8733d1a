"""What the store knows of each photo: the payload beside its embedding is the only record there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from crossalign.search.reading import Reading
from crossalign.search.scan import FileState
from crossalign.search.store import VectorStore

__all__ = ["PhotoEntry", "read_catalogue"]


@dataclass(frozen=True)
class PhotoEntry:
    """A photo as it was when it was embedded; ``mtime_ns`` is 0 where the time could not be trusted."""

    size: int
    mtime_ns: int
    sha256: str
    width: int
    height: int

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> PhotoEntry:
        """The entry that :meth:`payload` made."""
        return cls(**{name: payload[name] for name in cls.__dataclass_fields__})

    @classmethod
    def from_reading(cls, reading: Reading, width: int, height: int) -> PhotoEntry:
        """The entry of a photo just read, ``width`` by ``height`` pixels."""
        return cls(reading.size, reading.mtime_ns, reading.sha256, width, height)

    def payload(self) -> dict[str, Any]:
        """What is stored beside the embedding."""
        return asdict(self)

    def matches(self, state: FileState) -> bool:
        """Whether the file looks untouched."""
        return (self.size, self.mtime_ns) == (state.size, state.mtime_ns)


def read_catalogue(store: VectorStore) -> dict[str, PhotoEntry]:
    """Every photo of a store by its file."""
    return {record.id: PhotoEntry.from_payload(record.payload) for record in store.scroll()}
