"""A picture of what corresponds: the photo with the best pairs, the caption in the same colours, a heat map a word."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from crossalign.drawing import INK, PAPER, QUIET, SUNK, fitted, font_for, paste_pill, shortened, wrapped
from crossalign.explain.correspondence import Correspondence
from crossalign.explain.heat import heat_legend, heat_map, heat_over_photo
from crossalign.explain.marks import (
    PALETTE,
    RankLabel,
    filled_square,
    mapped_words,
    marked_photo,
    pixel_box,
    word_ranks,
)

__all__ = ["LARGEST_TOP", "draw_correspondence"]

LARGEST_TOP = len(PALETTE)
WIDTH = 1200
_MARGIN, _GAP = 40, 28
_PHOTO = (720, 540)
_COLUMNS, _MAPS = 7, 14


def draw_correspondence(
    photo: Image.Image, found: Correspondence, *, note: str = "", all_words: bool = False
) -> Image.Image:
    """Draw which word chose which region.

    Args:
        photo: upright; of any size.
        found: with at most ``LARGEST_TOP`` pairs.
        note: a quiet line at the foot.
        all_words: heat maps for articles, prepositions and their like, too.

    Returns:
        A picture 1200 pixels wide.

    Raises:
        ValueError: more pairs than colours.
    """
    if len(found.pairs) > LARGEST_TOP:
        raise ValueError(f"{len(found.pairs)} pairs for {LARGEST_TOP} colours; ask for fewer")
    parts = [
        _photo_and_pairs(fitted(photo, _PHOTO, enlarge=8.0), found),
        _caption(found),
        _heat_maps(fitted(photo, (512, 512)), found, all_words),
        _foot(note),
    ]
    height = sum(part.height for part in parts) + _GAP * (len(parts) - 1) + 2 * _MARGIN
    picture = Image.new("RGB", (WIDTH, height), PAPER)
    y = _MARGIN
    for part in parts:
        picture.paste(part, (_MARGIN, y))
        y += part.height + _GAP
    return picture


def _strip(height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    strip = Image.new("RGB", (WIDTH - 2 * _MARGIN, max(1, height)), PAPER)
    return strip, ImageDraw.Draw(strip)


def _photo_and_pairs(photo: Image.Image, found: Correspondence) -> Image.Image:
    """The marked photo on the left; on the right each pair with its region, word and cosine, the bar from 0 to 1."""
    row, first = 84, 40
    height = max(photo.height, first + row * len(found.pairs))
    strip, draw = _strip(height)
    frame = max(photo.width, 240)
    strip.paste(SUNK, (0, 0, frame, photo.height))
    strip.paste(marked_photo(photo, found), ((frame - photo.width) // 2, 0))
    left = frame + 36
    heading = "Most similar word and region"
    draw.text((left, 4), heading, QUIET, font_for(17, heading))
    for rank, pair in enumerate(found.pairs):
        y = first + row * rank
        crop = photo.crop(pixel_box(found.boxes[pair.region].tolist(), photo.size))
        strip.paste(PALETTE[rank], (left, y, left + 72, y + 72))
        strip.paste(filled_square(crop, 64), (left + 4, y + 4))
        x, right = left + 92, strip.width
        RankLabel(rank, found.words[pair.word].text, 20, right - x - 70).draw(strip, x, y + 20)
        value = _number(pair.similarity)
        draw.text((right, y + 20), value, INK, font_for(20, value), anchor="rm")
        paste_pill(strip, (x, y + 48, right, y + 56), SUNK)
        length = round((right - x) * min(max(pair.similarity, 0.0), 1.0))
        if length > 8:
            paste_pill(strip, (x, y + 48, x + length, y + 56), PALETTE[rank])
    return strip


def _caption(found: Correspondence) -> Image.Image:
    """The caption with the words of the pairs on their colours."""
    ranks = word_ranks(found)
    by_start = {word.start: position for position, word in enumerate(found.words)}
    size = 30 if len(found.text) <= 160 else 22
    font, line, room = font_for(size, found.text), round(1.8 * size), WIDTH - 2 * _MARGIN
    x, row = 0.0, 0
    placed: list[tuple[float, int, str | RankLabel]] = []
    for piece, start in _pieces(found):
        rank = ranks.get(by_start.get(start, -1))
        label = RankLabel(rank, piece, size, room) if rank is not None else None
        plain = shortened(piece, font, room, keep_end=False)
        width = label.width if label is not None else font.getlength(plain)
        if x > 0 and x + width > room:
            x, row, plain = 0.0, row + 1, plain.lstrip()
            width = label.width if label is not None else font.getlength(plain)
        placed.append((x, row, label or plain))
        x += width
    strip, draw = _strip((row + 1) * line)
    for x, row, shown in placed:
        middle = (row + 0.5) * line
        if isinstance(shown, RankLabel):
            shown.draw(strip, x, middle)
        else:
            draw.text((x, middle), shown, INK, font, anchor="lm")
    return strip


def _pieces(found: Correspondence) -> list[tuple[str, int]]:
    """The caption cut into its words and what stands between them, each with the place where it starts."""
    pieces: list[tuple[str, int]] = []
    end = 0
    for word in found.words:
        pieces += [(gap, -1) for gap in _gaps(found.text[end : word.start])]
        pieces.append((word.text, word.start))
        end = word.end
    return pieces + [(gap, -1) for gap in _gaps(found.text[end:])]


def _gaps(text: str) -> list[str]:
    """What is no word of the model, cut where a line may end, with single spaces."""
    return [re.sub(r"\s+", " ", gap) for gap in re.findall(r"\s*\S+|\s+$", text)]


def _heat_maps(photo: Image.Image, found: Correspondence, all_words: bool) -> Image.Image:
    """A small heat map for every word, in the order of the caption."""
    ranks = word_ranks(found)
    words = mapped_words(found, all_words, _MAPS)
    columns = max(5, -(-len(words) // -(-len(words) // _COLUMNS)))
    room = (WIDTH - 2 * _MARGIN - (columns - 1) * 20) // columns
    small = fitted(photo, (room, room), enlarge=4.0)
    label, first, gap = 36, 40, 20
    rows = -(-len(words) // columns)
    strip, draw = _strip(first + rows * (small.height + label + gap) - gap)
    left_out = len({found.words[c.word].text.lower() for c in found.choices}) - len(words)
    heading = "Where each word is most similar" + (f"  ({left_out} words not shown)" if left_out > 0 else "")
    draw.text((0, 4), heading, QUIET, font_for(17, heading))
    _colour_scale(strip, draw)
    for number, word in enumerate(words):
        row, column = divmod(number, columns)
        x, y = column * (room + 20), first + row * (small.height + label + gap)
        heat = heat_map(found.similarity[word][found.candidates], found.boxes[found.candidates], photo.size)
        strip.paste(heat_over_photo(small, heat), (x, y + label))
        _map_label(strip, draw, found, word, ranks.get(word), (x, y + 14), room)
    return strip


def _map_label(
    strip: Image.Image,
    draw: ImageDraw.ImageDraw,
    found: Correspondence,
    word: int,
    rank: int | None,
    place: tuple[int, int],
    room: int,
) -> None:
    x, y = place
    value = _number(found.choices[word].similarity)
    draw.text((x + room, y), value, QUIET, font_for(16, value), anchor="rm")
    text = found.words[word].text
    if rank is not None:
        RankLabel(rank, text, 17, room - 50).draw(strip, x, y)
        return
    font = font_for(17, text)
    draw.text((x, y), shortened(text, font, room - 50, keep_end=False), INK, font, anchor="lm")


def _number(value: float) -> str:
    """Two decimals; what rounds to nothing has no sign."""
    return f"{round(value, 2) + 0.0:.2f}"


def _colour_scale(strip: Image.Image, draw: ImageDraw.ImageDraw) -> None:
    """What the colours of the heat maps mean, at the right of their heading."""
    right, font = strip.width, font_for(15, "")
    low, high = "least similar region", "most similar"
    draw.text((right, 14), high, QUIET, font, anchor="rm")
    right -= int(font.getlength(high)) + 10
    ramp = np.tile(np.linspace(0, 1, 120, dtype=np.float32), (10, 1))
    strip.paste(Image.fromarray(heat_legend(ramp)), (right - 120, 9))
    draw.text((right - 130, 14), low, QUIET, font, anchor="rm")


def _foot(note: str) -> Image.Image:
    font = font_for(15, note)
    lines: Sequence[str] = wrapped(note, font, WIDTH - 2 * _MARGIN, limit=3)
    strip, draw = _strip(22 * len(lines))
    for number, line in enumerate(lines):
        draw.text((0, 22 * number), line, QUIET, font)
    return strip
