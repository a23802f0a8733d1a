"""What an index says about itself: its model, its photos, its store."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from crossalign.errors import CrossAlignError
from crossalign.files import read_json, write_json
from crossalign.search.bank import BankEntry
from crossalign.settings import Settings, parse_settings

__all__ = [
    "FORMAT_VERSION",
    "KIND",
    "MANIFEST_FILE",
    "STORE_NAME",
    "Manifest",
    "read_manifest",
    "write_manifest",
]

FORMAT_VERSION = 2
_READ = (1, FORMAT_VERSION)
KIND = "crossalign-index"
MANIFEST_FILE = "index.json"
STORE_NAME = r"store-[0-9a-f]{8}"


class Manifest(Settings):
    """Content of ``index.json``; it names the store's folder: replacing this file replaces the index."""

    kind: Literal["crossalign-index"] = "crossalign-index"
    format_version: int = FORMAT_VERSION
    model: str | None = Field(
        description="folder or Hub name of the model; null where it was given as an object"
    )
    fingerprint: str = Field(
        description="the model's fingerprint: embeddings of another one cannot be compared"
    )
    dim: int = Field(gt=0, description="D, width of an embedding")
    width: int | None = Field(
        default=None, description="that the model's embeddings are cut to, D then; null: they are whole"
    )
    views: int = Field(gt=0, description="V, embeddings a photo or text")
    uni: int | None = Field(
        default=None, description="E, width of the uni-modal embedding beside them; null: none is stored"
    )
    photos: str = Field(default="", description="the photo folder, absolute; empty in an index of texts")
    texts: str | None = Field(
        default=None, description="of an index of texts, the file or collection they come from, absolute"
    )
    split: str | None = Field(default=None, description="of that collection, where not all of it is meant")
    bank: BankEntry | None = Field(
        default=None, description="the query bank that scores of photos are corrected by; null: there is none"
    )
    store: str = Field(pattern=f"^{STORE_NAME}$", description="folder of the vectors, within the index")
    created: str = Field(description="when the store was made")
    complete: bool = Field(
        default=False, description="false while an update runs, and after one that was cut off"
    )
    count: int = Field(default=0, ge=0, description="photos or texts in the store, valid when complete")

    @property
    def holds(self) -> Literal["photos", "texts"]:
        """What is found in it."""
        return "photos" if self.texts is None else "texts"

    @property
    def source(self) -> str:
        """Where that comes from."""
        return self.photos if self.texts is None else self.texts

    @property
    def stored_dim(self) -> int:
        """Width of a stored vector: with a bank, one number more than an embedding has."""
        return self.dim + (self.bank is not None)

    @property
    def vector_bytes(self) -> int:
        """Room that the vectors take, in memory while the index is open and on the disk; valid when complete."""
        return 4 * self.count * (self.views * self.stored_dim + (self.uni or 0))


def read_manifest(path: str | Path) -> Manifest:
    """Read an index's description.

    Raises:
        CrossAlignError: it is missing, damaged or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise CrossAlignError(
            f"{path.parent}: no index here ({path.name} is missing); make one: crossalign index MODEL FOLDER "
            f"--out {path.parent}"
        )
    try:
        content = read_json(path)
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise CrossAlignError(f"{path}: not the description of an index")
        if content.get("format_version") not in _READ:
            raise CrossAlignError(
                f"{path}: format {content.get('format_version')}, this version reads {_READ[0]} to {_READ[-1]}"
            )
        # Format 1 knew neither texts, uni-modal embeddings nor banks: what it does not say is what it means.
        return parse_settings(Manifest, content | {"format_version": FORMAT_VERSION}, str(path))
    except CrossAlignError as error:
        raise CrossAlignError(f"{error}; build the index again with 'crossalign index --rebuild'") from None


def write_manifest(path: str | Path, manifest: Manifest) -> None:
    """Write an index's description, whole or not at all."""
    write_json(path, manifest.model_dump(mode="json"))
