"""Writing precomputed data: the collection, with its features in a feature store inside it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Literal

from crossalign.data.collection import Collection
from crossalign.data.importers.precomputed import Precomputed
from crossalign.data.importers.run import checked_source
from crossalign.data.importers.source import Source
from crossalign.data.importers.splits import SplitChoice
from crossalign.data.tables import check_target
from crossalign.progress import progress_bar

__all__ = ["import_precomputed"]

IMAGES_AT_A_TIME = 64


def import_precomputed(
    data: Precomputed,
    out: str | Path,
    *,
    called: str,
    name: str | None = None,
    dtype: Literal["float16", "float32"] = "float32",
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Collection:
    """Write captions and features as a collection with a feature store ``features`` inside it.

    Features go to a hidden folder beside ``out`` first; an import that was killed continues there.

    Raises:
        CrossAlignError: something is wrong with the source and ``skip_bad`` is false, or ``out`` exists.
    """
    out = Path(out).resolve()
    check_target(out, overwrite)
    good = checked_source(
        data.source, called=called, splits=SplitChoice(), skip_bad=skip_bad, progress=progress
    )
    name = name or out.name
    staged = _write_features(data, good, out, name, dtype, progress=progress)
    collection = Collection.write(
        out,
        name=name,
        image_root=None,
        images=good.images,
        captions=good.captions,
        provenance=good.provenance,
        overwrite=overwrite,
        features=staged,
    )
    for abandoned in out.parent.glob(f".{out.name}.features-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    return collection


def _write_features(
    data: Precomputed,
    good: Source,
    out: Path,
    name: str,
    dtype: Literal["float16", "float32"],
    *,
    progress: bool,
) -> Path:
    """A finished feature store beside ``out``, named by its contents: only the same import continues it."""
    # Here, because feature stores need torch and the other importers do not.
    from crossalign.data.features import FeatureWriter

    ids = [image.id for image in good.images]
    rows = [data.rows[image_id] for image_id in ids]
    files = {}
    for arrays in {row.arrays.split: row.arrays for row in rows}.values():
        status = arrays.path.stat()
        files[arrays.path.name] = {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}
    first = rows[0].arrays
    boxes = first.boxes is not None
    manifest: dict[str, Any] = {
        "kind": "image",
        "backbone": None,
        "regions": {"kind": "precomputed"},
        "detector": None,
        "source": name,
        "files": files,
    }
    settings = [manifest, dtype, boxes, first.in_pixels, ids]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    folder = out.parent / f".{out.name}.features-{key}"
    units, dim = first.features.shape[1:]
    with (
        FeatureWriter(
            folder, ids=ids, dim=dim, units=units, dtype=dtype, manifest=manifest, boxes=boxes
        ) as writer,
        progress_bar(progress) as bar,
    ):
        task = bar.add_task("copying features", total=len(rows), completed=writer.done, status="")
        while writer.done < len(rows):
            block = rows[writer.done : writer.done + IMAGES_AT_A_TIME]
            features = [row.arrays.features[row.row] for row in block]
            block_boxes = (
                [row.arrays.relative_boxes(row.row, row.position) for row in block] if boxes else None
            )
            writer.append(features, block_boxes)
            bar.update(task, completed=writer.done)
        writer.finish()
    return folder
