"""A contact sheet: the hits of one query, photos or texts, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from crossalign.data.photos import open_photo
from crossalign.drawing import (
    INK,
    PAPER,
    QUIET,
    SUNK,
    fitted,
    font_for,
    paste_pill,
    save_picture,
    shortened,
    wrapped,
)
from crossalign.errors import CrossAlignError
from crossalign.search.hit import Hit, TextHit

__all__ = ["contact_sheet", "save_contact_sheet", "text_sheet"]

_MARGIN = 40
_GAP = 24
_FRAME = (260, 220)
_LINE = 24
_TEXT_WIDTH = 1000


def contact_sheet(
    hits: Sequence[Hit], query: str | Image.Image, *, note: str = "", columns: int | None = None
) -> Image.Image:
    """Draw hits in a grid under the query, each with rank, score and file name.

    Args:
        hits: best first; a photo that is missing or unreadable gets a frame that says so.
        query: words, or the picture that was searched with.
        note: a quiet line under the query.
        columns: photos a row; 5, or fewer for few hits, if left out.
    """
    columns = columns or max(1, min(5, len(hits)))
    rows = -(-len(hits) // columns)
    width = max(640, 2 * _MARGIN + columns * _FRAME[0] + (columns - 1) * _GAP)
    header = _header(query, note, width - 2 * _MARGIN)
    cell = _FRAME[1] + 2 * _LINE + _GAP
    top = _MARGIN + header.height + _GAP
    sheet = Image.new("RGB", (width, top + rows * cell - (_GAP if rows else 0) + _MARGIN), PAPER)
    sheet.paste(header, (_MARGIN, _MARGIN))
    for index, hit in enumerate(hits):
        row, column = divmod(index, columns)
        _draw_hit(sheet, hit, _MARGIN + column * (_FRAME[0] + _GAP), top + row * cell)
    return sheet


def text_sheet(hits: Sequence[TextHit], query: str | Image.Image, *, note: str = "") -> Image.Image:
    """Draw texts under the query, a paragraph each with rank, score and the photo it describes where there is one.

    Args:
        hits: best first.
        query: words, or the picture that was searched with.
        note: a quiet line under the query.
    """
    inner = _TEXT_WIDTH - 2 * _MARGIN
    header = _header(query, note, inner, "Texts for this one")
    rows = [_text_row(hit, inner) for hit in hits]
    top = _MARGIN + header.height + _GAP
    height = top + sum(row.height + _GAP for row in rows) + _MARGIN - (_GAP if rows else 0)
    sheet = Image.new("RGB", (_TEXT_WIDTH, height), PAPER)
    sheet.paste(header, (_MARGIN, _MARGIN))
    for row in rows:
        sheet.paste(row, (_MARGIN, top))
        top += row.height + _GAP
    return sheet


def _text_row(hit: TextHit, width: int) -> Image.Image:
    """Rank, the photo where it can be read, words, score."""
    photo = next((seen for path in hit.photos[:1] if (seen := _photo(path)) is not None), None)
    photo = None if photo is None else fitted(photo, (120, 90))
    rank, score = str(hit.rank), f"{hit.score:.3f}"
    bold, quiet, font = font_for(15, rank), font_for(15, score), font_for(20, hit.text)
    badge = max(24, int(bold.getlength(rank)) + 14)
    left = badge + 12 + (0 if photo is None else 120 + 12)
    lines = wrapped(hit.text, font, width - left - int(quiet.getlength(score)) - 16, limit=4)
    height = max(len(lines) * 28, 28, 0 if photo is None else photo.height)
    row = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(row)
    paste_pill(row, (0, 2, badge, 26), INK)
    draw.text((badge / 2, 14), rank, PAPER, bold, anchor="mm")
    if photo is not None:
        row.paste(photo, (badge + 12, 0))
    for number, line in enumerate(lines):
        draw.text((left, 2 + 28 * number), line, INK, font)
    draw.text((width, 14), score, QUIET, quiet, anchor="rm")
    return row


def save_contact_sheet(sheet: Image.Image, path: str | Path) -> None:
    """Write a sheet; see :func:`~crossalign.drawing.save_picture`."""
    save_picture(sheet, path)


def _header(
    query: str | Image.Image, note: str, width: int, told: str = "Photos like this one"
) -> Image.Image:
    """The query as a headline, or as a picture with a headline beside it, and the note below."""
    picture = None if isinstance(query, str) else fitted(query, (_FRAME[0], 160))
    headline = query if isinstance(query, str) else told
    left = picture.width + _GAP if picture is not None else 0
    size = 32 if len(headline) <= 90 else 24
    lines = wrapped(headline, font_for(size, headline), width - left, limit=4)
    height = len(lines) * (size + 10) + (_LINE + 4 if note else 0)
    header = Image.new("RGB", (width, max(height, picture.height if picture is not None else 0)), PAPER)
    draw = ImageDraw.Draw(header)
    if picture is not None:
        header.paste(picture, (0, 0))
    y = (header.height - height) // 2
    for line in lines:
        draw.text((left, y), line, INK, font_for(size, headline))
        y += size + 10
    if note:
        font = font_for(15, note)
        draw.text((left, y + 4), shortened(note, font, width - left), QUIET, font)
    return header


def _draw_hit(sheet: Image.Image, hit: Hit, x: int, y: int) -> None:
    draw = ImageDraw.Draw(sheet)
    width, height = _FRAME
    draw.rectangle((x, y, x + width - 1, y + height - 1), SUNK)
    photo = None if hit.missing else _photo(hit.path)
    if photo is None:
        reason = "photo is missing" if hit.missing else "photo cannot be read"
        draw.line((x + width // 2 - 22, y + 66, x + width // 2 + 22, y + 110), QUIET, 3)
        draw.line((x + width // 2 - 22, y + 110, x + width // 2 + 22, y + 66), QUIET, 3)
        draw.text((x + width // 2, y + 136), reason, QUIET, font_for(15, reason), anchor="mm")
        font = font_for(13, hit.file)
        for number, line in enumerate(wrapped(hit.file, font, width - 24, limit=3)):
            draw.text((x + width // 2, y + 160 + 18 * number), line, QUIET, font, anchor="mm")
    else:
        sheet.paste(photo, (x + (width - photo.width) // 2, y + (height - photo.height) // 2))
    rank, score = str(hit.rank), "" if math.isnan(hit.score) else f"{hit.score:.3f}"
    bold, plain = font_for(15, rank), font_for(15, hit.file)
    middle = y + height + _LINE
    badge = max(24, int(bold.getlength(rank)) + 14)
    paste_pill(sheet, (x, middle - 12, x + badge, middle + 12), INK)
    draw.text((x + badge / 2, middle), rank, PAPER, bold, anchor="mm")
    draw.text((x + width, middle), score, QUIET, font_for(15, score), anchor="rm")
    room = width - badge - 8 - int(plain.getlength(score)) - 12
    # A second line has its place in every cell, so that long names need not be cut.
    for number, line in enumerate(wrapped(Path(hit.file).name, plain, room, limit=2, keep_end=True)):
        draw.text((x + badge + 8, middle + 18 * number), line, INK, plain, anchor="lm")


def _photo(path: Path) -> Image.Image | None:
    try:
        return fitted(open_photo(path), _FRAME)
    except CrossAlignError:
        return None
