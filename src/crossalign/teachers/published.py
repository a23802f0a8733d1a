"""Features of teachers that others have published, as NumPy files: read as data, nothing in them is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crossalign.convert.unpickle import read_numpy
from crossalign.errors import CrossAlignError
from crossalign.files import file_digest, read_json

__all__ = ["PublishedFeatures", "read_published"]

# Vectors that are looked at together.
_BLOCK = 1024


@dataclass(frozen=True)
class PublishedFeatures:
    """Vectors by id.

    Attributes:
        path: the file.
        sha256: its checksum.
        vectors: ``(T,)`` each, by the id as text; mapped into memory where the file allows it.
        dim: T.
    """

    path: Path
    sha256: str
    vectors: Mapping[str, npt.NDArray[np.floating]]
    dim: int

    def check(self, ids: Sequence[str], dtype: Literal["float16", "float32"]) -> None:
        """Look at the vectors of these ids as they will be stored, a block at a time.

        Raises:
            CrossAlignError: one is not finite, or all zero, in the file or in the stored type.
        """
        for start in range(0, len(ids), _BLOCK):
            part = ids[start : start + _BLOCK]
            rows = np.stack([np.asarray(self.vectors[name], np.float32) for name in part])
            with np.errstate(over="ignore", under="ignore"):
                stored = rows.astype(dtype)
            unfit = ~np.isfinite(stored).all(axis=1) | ~stored.any(axis=1)
            if unfit.any():
                position = int(unfit.argmax())
                raise CrossAlignError(
                    f"{self.path}: the features of '{part[position]}' are {_trouble(rows[position])}"
                )


def _trouble(row: npt.NDArray[np.float32]) -> str:
    """Why a vector cannot be stored."""
    if not np.isfinite(row).all():
        return "not finite; mend the file, or leave this id out of it"
    if not row.any():
        return "all zero, which have no cosine; mend the file, or leave this id out of it"
    size = "large" if np.abs(row).max() > 1 else "small"
    return f"too {size} for float16; use --dtype float32"


def read_published(path: str | Path, ids: str | Path | None = None) -> PublishedFeatures:
    """Read a ``.npy`` file: a dictionary from id to vector, or an array ``(n, T)`` with a file of its n ids.

    The dictionary is the form that CUSA's features of Unicom have (a vector may have a leading axis of 1). Ids are
    texts or whole numbers.

    Args:
        ids: one id a line; a JSON list for ``.json``; a NumPy array for ``.npy``. Not with a dictionary.

    Raises:
        CrossAlignError: a file is missing, damaged or asks for anything but data, ids are missing, too many or double,
            or the vectors are no numbers of one width.
    """
    path = Path(path)
    content = read_numpy(path)
    if isinstance(content, dict):
        if ids is not None:
            raise CrossAlignError(f"{path}: a dictionary, which has its ids in it; leave out the file of ids")
        names = [_name(key, path) for key in content]
        rows: Sequence[Any] | npt.NDArray = list(content.values())
    elif isinstance(content, np.ndarray) and content.ndim == 2:
        if ids is None:
            raise CrossAlignError(f"{path}: an array {content.shape} without ids; name their file with --ids")
        names, rows = _read_ids(Path(ids)), content
        if len(names) != len(rows):
            raise CrossAlignError(f"{ids}: {len(names)} ids for the {len(rows)} rows of {path}")
    else:
        shape = (
            f"an array {content.shape}" if isinstance(content, np.ndarray) else f"a {type(content).__name__}"
        )
        raise CrossAlignError(
            f"{path}: {shape}; give a dictionary from id to vector, or an array (n, T) and the file of its ids"
        )
    vectors = {name: _vector(row, name, path) for name, row in zip(names, rows, strict=True)}
    if len(vectors) != len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise CrossAlignError(f"{path}: the id '{twice}' stands there more than once")
    widths = sorted({len(vector) for vector in vectors.values()})
    if len(widths) != 1 or widths[0] == 0:
        raise CrossAlignError(
            f"{path}: vectors of {', '.join(map(str, widths[:3])) or 'no'} numbers; a teacher has vectors of one width"
        )
    return PublishedFeatures(path.resolve(), file_digest(path), vectors, widths[0])


def _name(key: Any, path: Path) -> str:
    if isinstance(key, np.integer | np.str_):
        key = key.item()
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise CrossAlignError(
            f"{path}: has a {type(key).__name__} where an id belongs; ids are texts or numbers"
        )
    return str(key)


def _vector(row: Any, name: str, path: Path) -> npt.NDArray[np.floating]:
    values = np.asarray(row.numpy() if hasattr(row, "numpy") else row)
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.floating):
        raise CrossAlignError(
            f"{path}: '{name}' has {values.dtype} of shape {values.shape}; a teacher's vector is (T,) real numbers"
        )
    return values


def _read_ids(path: Path) -> list[str]:
    if path.suffix == ".json":
        content = read_json(path)
    elif path.suffix == ".npy":
        content = read_numpy(path)
        content = content.tolist() if isinstance(content, np.ndarray) and content.ndim == 1 else content
    else:
        try:
            content = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise CrossAlignError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if not isinstance(content, list):
        raise CrossAlignError(f"{path}: not a list of ids; give one id a line, or a JSON list")
    return [_name(value, path) for value in content]
