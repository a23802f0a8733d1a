"""What pictures with text in them are made of: fonts, wrapped lines, fitted photos, smooth shapes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from crossalign.errors import CrossAlignError
from crossalign.files import atomic_path

__all__ = [
    "INK",
    "PAPER",
    "QUIET",
    "SUNK",
    "Colour",
    "Font",
    "check_picture_format",
    "fitted",
    "font_for",
    "paste_pill",
    "save_picture",
    "shortened",
    "wrapped",
]

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PAPER: Colour = (250, 250, 248)
SUNK: Colour = (236, 236, 232)
INK: Colour = (28, 28, 30)
QUIET: Colour = (112, 112, 118)
# Pillow's own typeface knows Latin letters only; these cover more scripts and are widespread.
_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial Unicode.ttf")


def check_picture_format(path: str | Path) -> str:
    """Pillow's name of the format that a file's suffix stands for.

    Raises:
        CrossAlignError: there is none that can be written.
    """
    suffix = Path(path).suffix
    kind = Image.registered_extensions().get(suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise CrossAlignError(f"{path}: no picture format for '{suffix}'; use .png or .jpg")
    return kind


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Write a picture in the format that the file's suffix names, whole or not at all.

    Raises:
        CrossAlignError: no such format, or the place cannot be written.
    """
    path = Path(path)
    kind = check_picture_format(path)
    try:
        with atomic_path(path) as temporary:
            picture.save(temporary, format=kind)
    except OSError as error:
        raise CrossAlignError(f"{path}: cannot be written ({error.strerror or error})") from None


def paste_pill(picture: Image.Image, box: tuple[int, int, int, int], colour: Colour) -> None:
    """Fill ``box`` with a shape of round ends, drawn large and reduced so that its edge is smooth."""
    width, height = box[2] - box[0], box[3] - box[1]
    large = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(large).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 2 * height, 255)
    picture.paste(colour, box, large.resize((width, height), Image.Resampling.LANCZOS))


def fitted(image: Image.Image, size: tuple[int, int], enlarge: float = 3.0) -> Image.Image:
    """The picture in its own aspect ratio, as large as fits, but at most ``enlarge`` times its size."""
    scale = min(size[0] / image.width, size[1] / image.height, enlarge)
    wanted = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(wanted, Image.Resampling.LANCZOS)


def font_for(size: int, text: str) -> Font:
    """Pillow's typeface, or for other scripts than Latin one of the system's that has them."""
    if any(ord(letter) > 0x24F for letter in text):
        for name in _WIDE_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def wrapped(text: str, font: Font, width: float, *, limit: int, keep_end: bool = False) -> list[str]:
    """Lines no wider than ``width``; what does not fit in ``limit`` lines ends in an ellipsis.

    With ``keep_end`` the ellipsis stands in the middle of the last line, as it suits file names.
    """
    lines: list[str] = []
    rest = " ".join(text.split())
    while rest:
        end = _line_end(rest, font, width)
        if end < len(rest):
            if len(lines) == limit - 1:
                return [*lines, shortened(rest, font, width, keep_end=keep_end)]
            space = rest.rfind(" ", 1, end + 1)
            end = space if space > 0 else end
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    return lines


def _line_end(text: str, font: Font, width: float) -> int:
    """How many letters fit on a line, at least one."""
    return max(1, _most(len(text), lambda length: font.getlength(text[:length]) <= width))


def shortened(text: str, font: Font, width: float, *, keep_end: bool = True) -> str:
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
