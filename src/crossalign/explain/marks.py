"""A photo with its regions, the chosen ones framed and named in colours that colour-blind readers tell apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from PIL import Image, ImageDraw

from crossalign.drawing import INK, Colour, font_for, paste_pill, shortened
from crossalign.explain.correspondence import Correspondence

__all__ = [
    "PALETTE",
    "RankLabel",
    "filled_square",
    "ink_on",
    "mapped_words",
    "marked_photo",
    "pixel_box",
    "word_ranks",
]

PixelBox = tuple[int, int, int, int]

# Okabe and Ito, "Color Universal Design" (2008), without black; in an order that keeps neighbours far apart.
PALETTE: tuple[Colour, ...] = (
    (213, 94, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
)
_LINE = 4


def ink_on(colour: Colour) -> Colour:
    """White or ink, whichever is read more easily on a colour."""
    red, green, blue = colour
    return (255, 255, 255) if 0.299 * red + 0.587 * green + 0.114 * blue < 150 else INK


class RankLabel:
    """A word on the colour of its pair, with the pair's number small before it.

    Args:
        rank: of the pair, from 0.
        room: the word is shortened to what fits into so many pixels.
        size: of the word's letters in pixels.
    """

    def __init__(self, rank: int, word: str, size: int, room: float) -> None:
        self.rank = rank
        self.number = str(rank + 1)
        self.small, self.font = font_for(round(0.68 * size), self.number), font_for(size, word)
        self.pad = round(0.45 * size)
        self.before = self.pad + int(self.small.getlength(self.number)) + round(0.28 * size)
        self.word = shortened(word, self.font, max(room - self.before - self.pad, size), keep_end=False)
        self.width = self.before + int(self.font.getlength(self.word)) + self.pad
        self.height = round(1.5 * size)

    def draw(self, picture: Image.Image, left: float, middle: float) -> PixelBox:
        """Draw with its left end and vertical middle there; the place that it takes."""
        x, top = round(left), round(middle) - self.height // 2
        box = (x, top, x + self.width, top + self.height)
        paste_pill(picture, box, PALETTE[self.rank])
        ink, draw = ink_on(PALETTE[self.rank]), ImageDraw.Draw(picture)
        draw.text((x + self.pad, middle), self.number, ink, self.small, anchor="lm")
        draw.text((x + self.before, middle), self.word, ink, self.font, anchor="lm")
        return box


def word_ranks(found: Correspondence) -> dict[int, int]:
    """The rank, from 0, of each word's pair; repetitions of a word that chose the same region share it."""
    ranks = {
        (found.words[pair.word].text.lower(), pair.region): rank for rank, pair in enumerate(found.pairs)
    }
    keys = {choice.word: (found.words[choice.word].text.lower(), choice.region) for choice in found.choices}
    return {word: ranks[key] for word, key in keys.items() if key in ranks}


def mapped_words(found: Correspondence, all_words: bool, most: int) -> list[int]:
    """Words that get a heat map, in the caption's order: at most so many, those of the pairs before others.

    Of a word's repetitions that chose the same region it is the most similar one, as among the pairs.
    """
    ranks = word_ranks(found)
    best: dict[tuple[str, int], int] = {}
    for choice in sorted(found.choices, key=lambda choice: -choice.similarity):
        if all_words or choice.word in ranks or found.words[choice.word].names:
            best.setdefault((found.words[choice.word].text.lower(), choice.region), choice.word)
    words = sorted(best.values(), key=lambda word: (word not in ranks, word))[:most]
    return sorted(words)


def pixel_box(box: Sequence[float], size: tuple[int, int]) -> PixelBox:
    """A relative xyxy box in whole pixels inside a picture, at least one pixel each way."""
    left, top, right, bottom = (
        round(min(max(part, 0.0), 1.0) * side) for part, side in zip(box, size * 2, strict=True)
    )
    left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def filled_square(crop: Image.Image, side: int) -> Image.Image:
    """The middle of a crop that fills a square."""
    scale = side / min(crop.size)
    large = crop.resize((max(side, round(crop.width * scale)), max(side, round(crop.height * scale))))
    left, top = (large.width - side) // 2, (large.height - side) // 2
    return large.crop((left, top, left + side, top + side))


def marked_photo(photo: Image.Image, found: Correspondence) -> Image.Image:
    """The photo with thin lines around all regions; those of the best pairs stand out, framed and named."""
    chosen = [pixel_box(found.boxes[pair.region].tolist(), photo.size) for pair in found.pairs]
    picture = _faded(photo, chosen)
    _thin_lines(picture, [pixel_box(box, photo.size) for box in found.boxes[found.candidates].tolist()])
    taken: Counter[PixelBox] = Counter()
    frames = []
    for rank, box in enumerate(chosen):
        # Several words may choose one region: their frames stand inside each other.
        inset = (_LINE + 2) * taken[box]
        taken[box] += 1
        frames.append((rank, _shrunk(box, inset)))
    draw = ImageDraw.Draw(picture)
    for rank, box in reversed(frames):
        left, top, right, bottom = box
        draw.rectangle((left - 1, top - 1, right, bottom), outline=(255, 255, 255), width=_LINE + 2)
        draw.rectangle((left, top, right - 1, bottom - 1), outline=PALETTE[rank], width=_LINE)
    placed: list[PixelBox] = []
    for rank, box in frames:
        label = RankLabel(rank, found.words[found.pairs[rank].word].text, 16, picture.width)
        placed.append(_tag(picture, label, box, placed))
    return picture


def _faded(photo: Image.Image, chosen: Sequence[PixelBox]) -> Image.Image:
    """The photo, paler where no region was chosen."""
    mask = Image.new("L", photo.size, 80)
    for box in chosen:
        mask.paste(0, box)
    picture = photo.copy()
    picture.paste((255, 255, 255), (0, 0), mask)
    return picture


def _thin_lines(picture: Image.Image, boxes: Sequence[PixelBox]) -> None:
    lines = Image.new("L", picture.size)
    draw = ImageDraw.Draw(lines)
    for left, top, right, bottom in boxes:
        draw.rectangle(
            (left, top, min(right, picture.width - 1), min(bottom, picture.height - 1)), outline=80
        )
    picture.paste(INK, (0, 0), lines)


def _shrunk(box: PixelBox, by: int) -> PixelBox:
    left, top, right, bottom = box
    across, down = min(by, (right - left - 1) // 2), min(by, (bottom - top - 1) // 2)
    return left + across, top + down, right - across, bottom - down


def _tag(picture: Image.Image, label: RankLabel, box: PixelBox, placed: Sequence[PixelBox]) -> PixelBox:
    """Draw a label at the top of a frame, or in the nearest free place below or above; the place that it took."""
    left = max(0, min(box[0] + 4, picture.width - label.width))
    tops = [*range(box[1] + 4, picture.height - label.height, 2), *range(max(box[1] + 2, 0), -1, -2)]
    spots = [(left, top, left + label.width, top + label.height) for top in tops]
    free = (spot for spot in spots if not any(_meet(spot, other) for other in placed))
    top = next(free, spots[0])[1]
    return label.draw(picture, left, top + label.height / 2)


def _meet(first: PixelBox, second: PixelBox) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
