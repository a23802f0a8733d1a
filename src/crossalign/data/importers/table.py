"""Reading captions from a CSV or TSV table with a header."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from crossalign.data.collection import CaptionRecord, ImageRecord
from crossalign.data.importers.source import (
    MALFORMED,
    NOT_UTF8_CAPTION,
    Source,
    is_utf8,
    tidy_path,
)
from crossalign.errors import CrossAlignError, printable
from crossalign.files import file_digest

__all__ = ["Columns", "read_table"]


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table; those that are optional are used when the table has them.

    One under another name than the usual must be there. Without ``image_id`` the path is the id of an image; without
    ``caption_id`` captions are ``image#0``, ...
    """

    image: str = "image"
    caption: str = "caption"
    split: str = "split"
    label: str = "label"
    image_id: str = "image_id"
    caption_id: str = "caption_id"


def read_table(
    path: str | Path,
    images: str | Path | None = None,
    *,
    columns: Columns | None = None,
    delimiter: str | None = None,
    quotes: bool | None = None,
) -> Source:
    """Images and captions of a table with one caption a row.

    Args:
        path: the table.
        images: the folder that the paths are relative to; the table's own folder where it is not given.
        delimiter: the character between columns; a tab for ``.tsv``, otherwise a comma.
        quotes: whether quotation marks enclose fields; yes for commas, no for tabs.

    Raises:
        CrossAlignError: the file is missing, has not the columns for image and caption or one that was named, or
            has two columns of one name.
    """
    path, columns = Path(path), columns or Columns()
    if not path.is_file():
        raise CrossAlignError(f"{path}: no such file")
    delimiter = delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
    if len(delimiter) != 1:
        raise CrossAlignError(f"--delimiter: '{delimiter}' is not a single character")
    quotes = delimiter != "\t" if quotes is None else quotes
    options = {"columns": asdict(columns), "delimiter": delimiter, "quotes": quotes}
    files = {str(path.resolve()): file_digest(path)}
    source = Source(
        Path(images) if images is not None else path.parent,
        provenance={"format": "table", "files": files, "options": options},
    )
    rows = _rows(path, delimiter, quotes)
    _, header = next(rows, (0, []))
    header = [name.strip() for name in header]
    _check_header(path, header, columns)
    captions_of: Counter[str] = Counter()
    for line, row in rows:
        where = f"{path.name} line {line}"
        if len(row) == len(header):
            _add_row(source, dict(zip(header, row, strict=True)), where, columns, captions_of)
        else:
            source.add_problem(MALFORMED, f"{where} ({len(row)} columns instead of {len(header)})")
    return source


def _check_header(path: Path, header: Sequence[str], columns: Columns) -> None:
    for field in fields(columns):
        name = getattr(columns, field.name)
        if name not in header and (field.name in ("image", "caption") or name != field.default):
            option = f"--{field.name.replace('_', '-')}-column"
            raise CrossAlignError(
                f"{path}: no column '{name}'; it has {printable(', '.join(header)) or 'none'} "
                f"(name the right one with {option})"
            )
    # Spreadsheets leave columns without a name at the end; nobody can ask for one.
    twice = next((name for name, count in Counter(header).items() if name and count > 1), None)
    if twice is not None:
        raise CrossAlignError(
            f"{path}: {header.count(twice)} columns are named '{printable(twice)}'; rename all but one"
        )


def _rows(path: Path, delimiter: str, quotes: bool) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every row that is not blank; bytes that are not UTF-8 become surrogates."""
    # Only a line feed ends a line: with newline="\n" the other separators of Unicode stay in their caption.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        try:
            for row in reader:
                if any(field.strip() for field in row):
                    yield reader.line_num, row
        except csv.Error as error:
            raise CrossAlignError(f"{path}: line {reader.line_num}: {error}; mend the table") from None


def _add_row(
    source: Source, row: dict[str, str], where: str, columns: Columns, captions_of: Counter[str]
) -> None:
    if not all(map(is_utf8, row.values())):
        source.add_problem(NOT_UTF8_CAPTION, where)
        return
    file = tidy_path(row[columns.image].strip())
    if not file:
        source.add_problem(MALFORMED, f"{where} (no image)")
        return
    split = row.get(columns.split, "").strip()
    if columns.split in row and not split:
        source.add_problem(MALFORMED, f"{where} (no split)")
        return
    image_id = row.get(columns.image_id, "").strip() or file
    caption_id = row.get(columns.caption_id, "").strip() or f"{image_id}#{captions_of[image_id]}"
    captions_of[image_id] += 1
    label = row.get(columns.label, "").strip() or None
    source.images.append(ImageRecord(image_id, file, 0, 0, label))
    source.captions.append(CaptionRecord(caption_id, image_id, row[columns.caption].strip(), split))
