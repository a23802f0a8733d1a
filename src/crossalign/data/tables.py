"""How a collection lies on disk: file names, Parquet tables, and what may be replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from crossalign.errors import CrossAlignError
from crossalign.files import file_digest, read_json

__all__ = [
    "CAPTIONS",
    "CAPTION_SCHEMA",
    "DESCRIPTION",
    "FEATURES",
    "IMAGES",
    "IMAGE_SCHEMA",
    "check_target",
    "check_unique",
    "ordered_splits",
    "read_table",
    "write_table",
]

DESCRIPTION, IMAGES, CAPTIONS, FEATURES = "collection.json", "images.parquet", "captions.parquet", "features"
IMAGE_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("file", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("label", pa.string()),
    ]
)
CAPTION_SCHEMA = pa.schema(
    [("caption_id", pa.string()), ("image_id", pa.string()), ("caption", pa.string()), ("split", pa.string())]
)
USUAL_SPLITS = ("train", "restval", "val", "dev", "test")


def check_target(folder: Path, overwrite: bool) -> None:
    """Refuse to replace anything but a collection: photos or other work in the same place would be lost.

    Raises:
        CrossAlignError: ``folder`` exists and ``overwrite`` is false, or it holds more than a collection.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CrossAlignError(f"{folder}: not a folder; choose another place")
    if not overwrite:
        raise CrossAlignError(f"{folder}: already exists; choose another place or overwrite it (--overwrite)")
    other = sorted({entry.name for entry in folder.iterdir()} - {DESCRIPTION, IMAGES, CAPTIONS, FEATURES})
    if other:
        raise CrossAlignError(
            f"{folder}: will not be overwritten, it holds more than a collection ({', '.join(other[:5])}); "
            "move that away or choose another place"
        )
    features = folder / FEATURES
    imported = _is_imported(features)
    if features.is_dir() and any(entry.is_dir() or not imported for entry in features.iterdir()):
        raise CrossAlignError(
            f"{folder}: will not be overwritten, {features} holds extracted features; "
            "move or remove them, or choose another place"
        )


def _is_imported(features: Path) -> bool:
    """Whether a feature store came with the collection, so that another import brings it again."""
    try:
        manifest = read_json(features / "manifest.json")
    except CrossAlignError:
        return False
    return isinstance(manifest, dict) and manifest.get("regions") == {"kind": "precomputed"}


def check_unique(folder: Path, kind: str, ids: Sequence[str]) -> None:
    """Raise CrossAlignError when an id of ``kind`` occurs more than once."""
    if len(set(ids)) != len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise CrossAlignError(f"{folder}: {kind} id '{twice}' occurs more than once; ids must be unique")


def ordered_splits(names: Sequence[str]) -> list[str]:
    """Distinct split names: train, validation and test first, others as they come."""
    distinct = list(dict.fromkeys(names))
    return sorted(distinct, key=lambda n: USUAL_SPLITS.index(n) if n in USUAL_SPLITS else len(USUAL_SPLITS))


def write_table(path: Path, schema: pa.Schema, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write rows as a Parquet table."""
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    pq.write_table(pa.table(arrays, schema=schema), path)


def read_table(path: Path, schema: pa.Schema, checksums: dict[str, str]) -> pa.Table:
    """Read the columns of ``schema`` from a Parquet table whose checksum is right.

    Raises:
        CrossAlignError: the file is missing or its bytes are not those that were written.
    """
    if not path.is_file():
        raise CrossAlignError(f"{path}: no such file; import the collection again")
    if file_digest(path) != checksums.get(path.name):
        raise CrossAlignError(
            f"{path}: damaged, its checksum differs from {DESCRIPTION}; import the collection again"
        )
    return pq.read_table(path, columns=schema.names)
