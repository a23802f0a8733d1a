"""A contact sheet: the hits of one query as a picture."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from crossalign.data.photos import open_photo
from crossalign.errors import CrossAlignError
from crossalign.files import atomic_path
from crossalign.search.engine import Hit

__all__ = ["contact_sheet", "save_contact_sheet"]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_MARGIN = 40
_GAP = 24
_FRAME = (260, 220)
_LINE = 24
_PAPER = (250, 250, 248)
_FRAME_FILL = (236, 236, 232)
_INK = (28, 28, 30)
_QUIET = (120, 120, 124)
_BADGE = (28, 28, 30)
# Pillow's own typeface knows Latin letters only; these cover more scripts and are widespread.
_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial Unicode.ttf")


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
    sheet = Image.new("RGB", (width, top + rows * cell - (_GAP if rows else 0) + _MARGIN), _PAPER)
    sheet.paste(header, (_MARGIN, _MARGIN))
    for index, hit in enumerate(hits):
        row, column = divmod(index, columns)
        _draw_hit(sheet, hit, _MARGIN + column * (_FRAME[0] + _GAP), top + row * cell)
    return sheet


def save_contact_sheet(sheet: Image.Image, path: str | Path) -> None:
    """Write a sheet in the format that the file's suffix names, whole or not at all.

    Raises:
        CrossAlignError: no such format, or the place cannot be written.
    """
    path = Path(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise CrossAlignError(f"{path}: no picture format for '{path.suffix}'; use .png or .jpg")
    try:
        with atomic_path(path) as temporary:
            sheet.save(temporary, format=kind)
    except OSError as error:
        raise CrossAlignError(f"{path}: cannot be written ({error.strerror or error})") from None


def _header(query: str | Image.Image, note: str, width: int) -> Image.Image:
    """The query as a headline, or as a picture with a headline beside it, and the note below."""
    picture = None if isinstance(query, str) else _fitted(query, (_FRAME[0], 160))
    headline = query if isinstance(query, str) else "Photos like this one"
    left = picture.width + _GAP if picture is not None else 0
    size = 32 if len(headline) <= 90 else 24
    lines = _wrapped(headline, _font(size, headline), width - left, limit=4)
    height = len(lines) * (size + 10) + (_LINE + 4 if note else 0)
    header = Image.new("RGB", (width, max(height, picture.height if picture is not None else 0)), _PAPER)
    draw = ImageDraw.Draw(header)
    if picture is not None:
        header.paste(picture, (0, 0))
    y = (header.height - height) // 2
    for line in lines:
        draw.text((left, y), line, _INK, _font(size, headline))
        y += size + 10
    if note:
        font = _font(15, note)
        draw.text((left, y + 4), _shortened(note, font, width - left), _QUIET, font)
    return header


def _draw_hit(sheet: Image.Image, hit: Hit, x: int, y: int) -> None:
    draw = ImageDraw.Draw(sheet)
    width, height = _FRAME
    draw.rectangle((x, y, x + width - 1, y + height - 1), _FRAME_FILL)
    photo = None if hit.missing else _photo(hit.path)
    if photo is None:
        reason = "photo is missing" if hit.missing else "photo cannot be read"
        draw.line((x + width // 2 - 22, y + 66, x + width // 2 + 22, y + 110), _QUIET, 3)
        draw.line((x + width // 2 - 22, y + 110, x + width // 2 + 22, y + 66), _QUIET, 3)
        draw.text((x + width // 2, y + 136), reason, _QUIET, _font(15, reason), anchor="mm")
        font = _font(13, hit.file)
        for number, line in enumerate(_wrapped(hit.file, font, width - 24, limit=3)):
            draw.text((x + width // 2, y + 160 + 18 * number), line, _QUIET, font, anchor="mm")
    else:
        sheet.paste(photo, (x + (width - photo.width) // 2, y + (height - photo.height) // 2))
    rank, score = str(hit.rank), f"{hit.score:.3f}"
    bold, plain = _font(15, rank), _font(15, hit.file)
    middle = y + height + _LINE
    badge = max(24, int(bold.getlength(rank)) + 14)
    sheet.paste(_BADGE, (x, middle - 12, x + badge, middle + 12), _pill(badge, 24))
    draw.text((x + badge / 2, middle), rank, _PAPER, bold, anchor="mm")
    draw.text((x + width, middle), score, _QUIET, _font(15, score), anchor="rm")
    room = width - badge - 8 - int(plain.getlength(score)) - 12
    draw.text((x + badge + 8, middle), _shortened(Path(hit.file).name, plain, room), _INK, plain, anchor="lm")


def _pill(width: int, height: int) -> Image.Image:
    """Mask of a shape with round ends, drawn large and reduced so that its edge is smooth."""
    large = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(large).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 2 * height, 255)
    return large.resize((width, height), Image.Resampling.LANCZOS)


def _photo(path: Path) -> Image.Image | None:
    try:
        return _fitted(open_photo(path), _FRAME)
    except CrossAlignError:
        return None


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture in its own aspect ratio, as large as fits; a small one is enlarged at most three times."""
    scale = min(size[0] / image.width, size[1] / image.height, 3.0)
    wanted = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(wanted, Image.Resampling.LANCZOS)


def _font(size: int, text: str) -> Font:
    """Pillow's typeface, or for other scripts than Latin one of the system's that has them."""
    if any(ord(letter) > 0x24F for letter in text):
        for name in _WIDE_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def _wrapped(text: str, font: Font, width: float, *, limit: int) -> list[str]:
    """Lines no wider than ``width``; what does not fit in ``limit`` lines ends in an ellipsis."""
    lines: list[str] = []
    rest = " ".join(text.split())
    while rest:
        end = _line_end(rest, font, width)
        if end < len(rest):
            if len(lines) == limit - 1:
                return [*lines, _shortened(rest, font, width, keep_end=False)]
            space = rest.rfind(" ", 1, end + 1)
            end = space if space > 0 else end
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    return lines


def _line_end(text: str, font: Font, width: float) -> int:
    """How many letters fit on a line, at least one."""
    return max(1, _most(len(text), lambda length: font.getlength(text[:length]) <= width))


def _shortened(text: str, font: Font, width: float, *, keep_end: bool = True) -> str:
    """The text if it fits; otherwise with its middle (or its end) left out."""

    def cut(kept: int) -> str:
        tail = kept // 2 if keep_end else 0
        return f"{text[: kept - tail]}…{text[len(text) - tail :]}"

    if font.getlength(text) <= width:
        return text
    return cut(_most(len(text) - 1, lambda kept: font.getlength(cut(kept)) <= width))


def _most(largest: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``largest`` that fits, where every smaller one does too; 0 if none."""
    return bisect_right(range(1, largest + 1), False, key=lambda number: not fits(number))
