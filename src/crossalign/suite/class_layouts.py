"""Photos with class labels, in the layouts that image retrieval is measured on."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crossalign.data.importers.source import IMAGE_SUFFIXES
from crossalign.errors import CrossAlignError

__all__ = ["LabelledPhotos", "read_labelled_photos"]


@dataclass(frozen=True, eq=False)
class LabelledPhotos:
    """Photos, what each shows, and which of them ask and answer.

    Attributes:
        name: of the set.
        layout: how it was read.
        paths: of n photos.
        label: ``(n,)`` number of each photo's class.
        query, gallery: positions of the photos that ask and of those that answer; a photo that does both never
            answers itself.
    """

    name: str
    layout: str
    paths: tuple[Path, ...]
    label: npt.NDArray[np.int64]
    query: npt.NDArray[np.int64]
    gallery: npt.NDArray[np.int64]

    @property
    def classes(self) -> int:
        return len(np.unique(self.label))


def read_labelled_photos(place: str | Path) -> LabelledPhotos:
    """Read the test split of a set of photos with classes, whichever of these layouts it has.

    - CUB-200-2011: ``images.txt``, ``image_class_labels.txt`` and ``images/``. The classes after the first 100 count,
      as the field tests on classes that training never saw.
    - Stanford Online Products: ``Ebay_test.txt``.
    - In-Shop Clothes Retrieval: ``list_eval_partition.txt``, here, in ``Eval/`` or in ``Anno/``, with its own query and
      gallery.
    - A CSV file with the columns ``file`` and ``label``, and ``role`` (``query``, ``gallery`` or ``both``) if wanted;
      paths are relative to it.
    - A list ``.txt`` of paths, such as iNaturalist's ``Inat_test_set1.txt``; the folder of a photo is its class.
    - A folder of folders: the folder of a photo, with those above it, is its class.
    - A folder with ``query`` and ``gallery``, each a folder of folders.

    Raises:
        CrossAlignError: none of them, a file is damaged, a photo is missing, or no photo has another of its class.
    """
    place = Path(place)
    if place.is_file():
        read = _table if place.suffix.lower() == ".csv" else _path_list
        return _checked(place, *read(place))
    if not place.is_dir():
        raise CrossAlignError(f"{place}: no such file or folder; give photos with classes (--classes)")
    for marks, known in _LAYOUTS:
        if all((place / mark).exists() for mark in marks):
            return _checked(place, *known(place))
    return _checked(place, *_folders(place))


Rows = list[tuple[Path, str, str]]
"""Path, class, and role: query, gallery or both."""


def _cub(place: Path) -> tuple[str, Rows]:
    files, classes = (
        {fields[0]: fields[1] for fields in _fields(place / name, 2)}
        for name in ("images.txt", "image_class_labels.txt")
    )
    path = place / "image_class_labels.txt"
    if files.keys() != classes.keys() or not all(label.isdecimal() for label in classes.values()):
        raise CrossAlignError(
            f"{path}: does not give the images of images.txt a numbered class; put both files back"
        )
    rows = [(place / "images" / files[n], label, "both") for n, label in classes.items() if int(label) > 100]
    if not rows:
        raise CrossAlignError(
            f"{path}: has no class above 100, the ones that are tested on; put the file back"
        )
    return "CUB-200, classes 101 and above", rows


def _products(place: Path) -> tuple[str, Rows]:
    lines = _fields(place / "Ebay_test.txt", 4, head=1)
    return "Stanford Online Products", [(place / file, label, "both") for _, label, _, file in lines]


def _in_shop(list_path: Path, root: Path) -> tuple[str, Rows]:
    lines = _fields(list_path, 3, head=2)
    rows = [(root / file, label, role) for file, label, role in lines if role != "train"]
    return "In-Shop, query and gallery", rows


def _query_gallery(place: Path) -> tuple[str, Rows]:
    rows: Rows = []
    for role in ("query", "gallery"):
        below = place / role
        rows += [(path, str(path.parent.relative_to(below)), role) for path in _photos(below)]
    return "folders of query and gallery", rows


_LAYOUTS: Sequence = (
    (("images.txt", "image_class_labels.txt"), _cub),
    (("Ebay_test.txt",), _products),
    (("list_eval_partition.txt",), lambda place: _in_shop(place / "list_eval_partition.txt", place)),
    (
        ("Eval/list_eval_partition.txt",),
        lambda place: _in_shop(place / "Eval/list_eval_partition.txt", place),
    ),
    (
        ("Anno/list_eval_partition.txt",),
        lambda place: _in_shop(place / "Anno/list_eval_partition.txt", place),
    ),
    (("query", "gallery"), _query_gallery),
)


_READ_AS = {
    "a list of photos": "a list of paths, one a line, relative to its folder",
    "a table": "a table of paths (column 'file'), relative to its folder",
}


def _folders(place: Path) -> tuple[str, Rows]:
    photos = _photos(place)
    loose = [path for path in photos if path.parent == place]
    if loose:
        raise CrossAlignError(f"{loose[0]}: a photo in no folder has no class; one folder a class is needed")
    return "a folder a class", [(path, str(path.parent.relative_to(place)), "both") for path in photos]


def _path_list(path: Path) -> tuple[str, Rows]:
    rows: Rows = []
    for (file,) in _fields(path, 1):
        rows.append((path.parent / file, str(Path(file).parent), "both"))
    return "a list of photos", rows


def _table(path: Path) -> tuple[str, Rows]:
    rows: Rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in ("file", "label") if name not in (reader.fieldnames or ())]
            if lacking:
                raise CrossAlignError(
                    f"{path}: no column '{lacking[0]}'; give file, label and, if wanted, role"
                )
            for row in reader:
                role = (row.get("role") or "both").strip()
                if role not in ("query", "gallery", "both"):
                    raise CrossAlignError(
                        f"{path}: line {reader.line_num}: role '{role}'; say query, gallery or both"
                    )
                if not row["file"] or not row["label"]:
                    raise CrossAlignError(
                        f"{path}: line {reader.line_num}: no file or no label; fill in both"
                    )
                rows.append((path.parent / row["file"], row["label"], role))
    except UnicodeDecodeError as error:
        raise CrossAlignError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    return "a table", rows


def _photos(place: Path) -> list[Path]:
    return sorted(
        path
        for path in place.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _fields(path: Path, count: int, head: int = 0) -> Iterator[tuple[str, ...]]:
    """The fields of each line of a text file; ``head`` lines at its beginning are no data."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CrossAlignError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    for number, line in enumerate(lines[head:], start=head + 1):
        if not line.strip():
            continue
        fields = [line.strip()] if count == 1 else line.split()
        if len(fields) != count:
            raise CrossAlignError(
                f"{path}: line {number} has {len(fields)} fields, not {count}; put the file back"
            )
        yield tuple(fields)


def _checked(place: Path, layout: str, rows: Rows) -> LabelledPhotos:
    if not rows:
        raise CrossAlignError(
            f"{place}: no photo with a class; give a folder with one folder a class, or a table"
        )
    missing = [path for path, _, _ in rows if not path.is_file()]
    if missing:
        count = f"{len(missing)} of {len(rows)} missing"
        if place.is_file():
            raise CrossAlignError(
                f"{place}: read as {_READ_AS[layout]}; {missing[0]}: no such photo ({count}); "
                "put them back, or give photos with classes"
            )
        raise CrossAlignError(f"{missing[0]}: no such photo ({count}); put them back")
    unknown = sorted({role for _, _, role in rows} - {"query", "gallery", "both"})
    if unknown:
        raise CrossAlignError(
            f"{place}: role '{unknown[0]}' of a photo is neither query nor gallery; put the file back"
        )
    _, label = np.unique([name for _, name, _ in rows], return_inverse=True)
    roles = np.array([role for _, _, role in rows])
    query, gallery = np.flatnonzero(roles != "gallery"), np.flatnonzero(roles != "query")
    photos = LabelledPhotos(
        place.resolve().name,
        layout,
        tuple(path for path, _, _ in rows),
        label.astype(np.int64),
        query,
        gallery,
    )
    if not _any_relevant(photos):
        raise CrossAlignError(
            f"{place}: no query has another photo of its class in the gallery; nothing can be found"
        )
    return photos


def _any_relevant(photos: LabelledPhotos) -> bool:
    counts = np.bincount(photos.label[photos.gallery], minlength=int(photos.label.max()) + 1)
    own = np.isin(photos.query, photos.gallery)
    return bool((counts[photos.label[photos.query]] > own).any())
