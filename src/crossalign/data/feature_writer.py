"""Writing features to disk, id after id, so that a killed run continues where it was."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from crossalign.data.feature_journal import FeatureJournal
from crossalign.data.feature_layout import (
    BOXES,
    FEATURES,
    FORMAT_VERSION,
    IDS,
    MANIFEST,
    OFFSETS,
    PARTIAL,
    UNIT_LOG,
    Layout,
    manifest_checksum,
)
from crossalign.data.feature_store import FeatureStore
from crossalign.errors import CrossAlignError
from crossalign.files import atomic_path, file_digest, read_json, write_json, write_text

__all__ = ["FeatureWriter"]


class FeatureWriter:
    """Writes a feature store sequentially; a writer with the same settings on the same folder continues it.

    The manifest appears last, so neither a killed process nor a power cut leaves a store that only looks
    whole.

    Args:
        units: units of every id; None where they differ (a ragged store).
        manifest: where the features come from; must hold ``kind`` ("image" or "text").
        boxes: whether every unit has a box ``x0 y0 x1 y1`` relative to the image.
        zeros: whether the features of an id may be all zero; not where they are compared by cosine.
        sync_seconds: the most seconds of work that a killed run loses.

    Raises:
        CrossAlignError: an id occurs twice, the folder holds something else or features made with other
            settings, or another process is writing to it.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        ids: Sequence[str],
        dim: int,
        units: int | None,
        dtype: Literal["float16", "float32"],
        manifest: dict[str, Any],
        boxes: bool,
        zeros: bool = True,
        sync_seconds: float = 2.0,
    ) -> None:
        self.folder = Path(folder)
        self._ids = tuple(ids)
        twice = next((name for name, count in Counter(self._ids).items() if count > 1), None)
        if twice is not None:
            raise CrossAlignError(f"{self.folder}: id '{twice}' occurs more than once; ids must be unique")
        ids_text = json.dumps(self._ids, ensure_ascii=False) + "\n"
        shape = {"count": len(self._ids), "units": units, "dim": dim, "dtype": dtype, "boxes": boxes}
        plan = {"format_version": FORMAT_VERSION} | manifest | shape
        plan["ids_sha256"] = hashlib.sha256(ids_text.encode()).hexdigest()
        self._plan: dict[str, Any] = json.loads(json.dumps(plan))
        self._layout = Layout.model_validate(self._plan)
        self._zeros = zeros
        self._prepare(ids_text)
        self._journal: FeatureJournal | None = None
        if not (self.folder / MANIFEST).is_file():
            self._journal = FeatureJournal(self.folder, self._layout, sync_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._journal is not None and self.done == 0:
            self._remove()
        self.close()

    @property
    def done(self) -> int:
        """How many ids have their features."""
        return len(self._ids) if self._journal is None else self._journal.count

    def rewind(self, done: int) -> None:
        """Forget the features from position ``done`` on, so that batches start where they did before.

        Raises:
            ValueError: fewer are written, or the store is finished.
        """
        if self._journal is None or not 0 <= done <= self.done:
            raise ValueError(f"cannot rewind to {done}: {self.done} are written")
        self._journal.truncate(done)

    def append(
        self,
        features: Sequence[npt.NDArray[np.floating]],
        boxes: Sequence[npt.NDArray[np.floating]] | None = None,
    ) -> None:
        """Write the features ``(n_i, D)`` of the next ids, and the boxes ``(n_i, 4)`` of their units.

        Raises:
            ValueError: a shape is wrong, boxes are missing, or there are more features than ids.
            CrossAlignError: features are not finite in the stored type, or all zero where that may not be.
        """
        names = self._ids[self.done : self.done + len(features)]
        if self._journal is None or len(names) < len(features):
            raise ValueError(f"{len(features)} more features than the {len(names)} ids left")
        if (boxes is not None) != self._layout.boxes or (boxes is not None and len(boxes) != len(names)):
            raise ValueError("boxes must be given for every id, or for none when the store has none")
        stored = [self._converted(name, rows) for name, rows in zip(names, features, strict=True)]
        for name, rows, corners in zip(names, stored, boxes or (), strict=boxes is not None):
            if corners.shape != (len(rows), 4):
                raise ValueError(f"boxes of '{name}' have shape {corners.shape}, not {(len(rows), 4)}")
        self._journal.append(stored, boxes or ())

    def finish(self) -> FeatureStore:
        """Complete the store and open it.

        Raises:
            ValueError: ids are left without features.
        """
        if self.done != len(self._ids):
            raise ValueError(f"{len(self._ids) - self.done} of {len(self._ids)} ids have no features yet")
        if self._journal is not None:
            self._journal.checkpoint()
            manifest = dict(self._plan)
            if self._layout.units is None:
                self._write_offsets(self._journal.unit_counts())
                manifest["offsets_sha256"] = file_digest(self.folder / OFFSETS)
            manifest["checksum"] = manifest_checksum(manifest)
            write_json(self.folder / MANIFEST, manifest)
            self.close()
            self._journal = None
        for leftover in (self.folder / PARTIAL, self.folder / UNIT_LOG, *self.folder.glob(".*.tmp")):
            leftover.unlink(missing_ok=True)
        return FeatureStore.open(self.folder)

    def close(self) -> None:
        """Flush what was appended and let the folder go; it stays unfinished until ``finish``."""
        if self._journal is not None:
            self._journal.close()

    def _remove(self) -> None:
        """Leave no store of nothing behind, which would be in the way of one with other settings.

        While the journal's lock is held. What went wrong before is more to the point than what may go wrong here.
        """
        with suppress(OSError):
            for name in (PARTIAL, IDS, FEATURES, BOXES, UNIT_LOG):
                (self.folder / name).unlink(missing_ok=True)
            if self._made_folder:
                self.folder.rmdir()

    def _prepare(self, ids_text: str) -> None:
        self._made_folder = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        found = {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}
        if MANIFEST in found:
            existing = Layout.read(self.folder)[1]
        elif PARTIAL in found:
            existing = read_json(self.folder / PARTIAL)
        elif found:
            names = ", ".join(sorted(found)[:3])
            raise CrossAlignError(f"{self.folder}: holds other files ({names}); choose another place")
        else:
            write_json(self.folder / PARTIAL, self._plan)
            existing = self._plan
        differing = sorted(key for key, value in self._plan.items() if existing.get(key) != value)
        if differing:
            raise CrossAlignError(
                f"{self.folder}: holds features made with other settings ({', '.join(differing)}); "
                "choose another place, or remove the folder"
            )
        if not (self.folder / IDS).is_file():
            write_text(self.folder / IDS, ids_text)

    def _write_offsets(self, counts: npt.NDArray[np.int64]) -> None:
        offsets = np.zeros(len(counts) + 1, "<i8")
        np.cumsum(counts, out=offsets[1:])
        with atomic_path(self.folder / OFFSETS) as temporary, temporary.open("wb") as file:
            np.save(file, offsets, allow_pickle=False)

    def _converted(self, name: str, rows: npt.NDArray[np.floating]) -> npt.NDArray[Any]:
        expected = (self._layout.units or len(rows), self._layout.dim)
        if rows.shape != expected:
            raise ValueError(f"features of '{name}' have shape {rows.shape}, not {expected}")
        with np.errstate(over="ignore", under="ignore"):
            stored = np.ascontiguousarray(rows, self._layout.numpy_dtype)
        if not np.isfinite(stored).all():
            reason = "too large for float16; use float32" if np.isfinite(rows).all() else "not finite"
            raise CrossAlignError(f"{self.folder}: the features of '{name}' are {reason}")
        if not self._zeros and not stored.any():
            reason = (
                "too small for float16; use float32" if np.any(rows) else "all zero, which have no cosine"
            )
            raise CrossAlignError(f"{self.folder}: the features of '{name}' are {reason}")
        return stored
