"""How a feature store lies on disk: its file names, its manifest, and the checks of both."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from crossalign.errors import CrossAlignError
from crossalign.files import file_digest, read_json
from crossalign.settings import parse_settings

__all__ = [
    "BOXES",
    "BOX_BYTES",
    "FEATURES",
    "FORMAT_VERSION",
    "IDS",
    "MANIFEST",
    "OFFSETS",
    "PARTIAL",
    "UNIT_LOG",
    "Layout",
    "manifest_checksum",
]

FORMAT_VERSION = 1
MANIFEST, IDS, FEATURES = "manifest.json", "ids.json", "features.bin"
OFFSETS, BOXES = "offsets.npy", "boxes.bin"
# Two that exist only until the store is finished: the manifest to be, and the units of every id on disk.
PARTIAL, UNIT_LOG = "manifest.partial.json", "units.log"
BOX_BYTES = 16  # four float32
_LITTLE_ENDIAN: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
_MEND = "remove the folder and extract again"


class Layout(BaseModel):
    """The part of a manifest that says how the bytes are laid out; the rest says where they come from.

    ``units`` is the number of units of every id, None where it differs from id to id (a ragged store).
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    kind: Literal["image", "text"]
    count: int = Field(ge=0)
    units: int | None = Field(ge=1)
    dim: int = Field(ge=1)
    dtype: Literal["float16", "float32"]
    boxes: bool
    ids_sha256: str
    offsets_sha256: str | None = None

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The type of the stored numbers, little-endian on every machine."""
        return _LITTLE_ENDIAN[self.dtype]

    @property
    def unit_bytes(self) -> int:
        """Bytes of one feature vector."""
        return self.dim * self.numpy_dtype.itemsize

    @classmethod
    def read(cls, folder: Path) -> tuple[Self, dict[str, Any]]:
        """The layout and the whole manifest of a finished store.

        Raises:
            CrossAlignError: the folder holds no store, an unfinished one, or a manifest that was changed.
        """
        path = folder / MANIFEST
        if not path.is_file():
            if (folder / PARTIAL).is_file():
                raise CrossAlignError(
                    f"{folder}: an unfinished feature store; run the same extract command again to finish it"
                )
            raise CrossAlignError(
                f"{folder}: not a feature store (no {MANIFEST}); make one with 'crossalign extract'"
            )
        manifest = read_json(path, _MEND)
        if not isinstance(manifest, dict):
            raise CrossAlignError(f"{path}: not a manifest; {_MEND}")
        version = manifest.get("format_version")
        if version != FORMAT_VERSION:
            raise CrossAlignError(
                f"{path}: format version {version!r}, this program reads {FORMAT_VERSION}; {_MEND}"
            )
        if manifest.pop("checksum", None) != manifest_checksum(manifest):
            raise CrossAlignError(f"{path}: changed since it was written (wrong checksum); {_MEND}")
        return parse_settings(cls, manifest, str(path)), manifest

    def check_files(self, folder: Path) -> None:
        """Compare the files with the manifest; the features themselves are not read, only measured.

        Raises:
            CrossAlignError: a file is missing, cut short or changed.
        """
        checked = {IDS: self.ids_sha256} | ({OFFSETS: self.offsets_sha256} if self.units is None else {})
        for name, digest in checked.items():
            if not (folder / name).is_file():
                raise CrossAlignError(f"{folder / name}: no such file; {_MEND}")
            if file_digest(folder / name) != digest:
                raise CrossAlignError(f"{folder / name}: damaged (wrong checksum); {_MEND}")
        total = self.total_units(folder)
        measured = {FEATURES: total * self.unit_bytes} | ({BOXES: total * BOX_BYTES} if self.boxes else {})
        for name, expected in measured.items():
            path = folder / name
            if not path.is_file():
                raise CrossAlignError(f"{path}: no such file; {_MEND}")
            if path.stat().st_size != expected:
                raise CrossAlignError(
                    f"{path}: damaged, {path.stat().st_size} bytes instead of {expected}; {_MEND}"
                )

    def total_units(self, folder: Path) -> int:
        """Units of all ids together."""
        if self.units is not None:
            return self.count * self.units
        return int(np.load(folder / OFFSETS, mmap_mode="r", allow_pickle=False)[self.count])


def manifest_checksum(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
