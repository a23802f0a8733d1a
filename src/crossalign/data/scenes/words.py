"""The words for what is in a scene and for where it stands; the first of each row is the usual one."""

from __future__ import annotations

__all__ = [
    "ANYTHING",
    "COMPARED",
    "FROM_IT",
    "IS",
    "MASS_NOUNS",
    "NOUNS",
    "NUMBERS",
    "PLURALS",
    "SHOWS",
    "TOWARDS",
    "VALUES",
    "WHERE",
]

VALUES: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "pyramid"),
    "star": ("star",),
    "ring": ("ring", "hoop", "doughnut"),
    "cross": ("cross", "plus sign"),
    "diamond": ("diamond", "rhombus", "lozenge"),
    "heart": ("heart", "love heart"),
    "crescent": ("crescent", "moon"),
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "golden", "lemon-yellow"),
    "green": ("green", "emerald"),
    "blue": ("blue", "cobalt", "royal-blue"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rosy"),
    "black": ("black", "jet-black", "charcoal"),
    "small": ("small", "little", "tiny"),
    "medium": ("medium-sized", "mid-sized"),
    "large": ("large", "big", "huge"),
    "plain": ("plain", "bare", "smooth"),
    "striped": ("striped", "stripy", "lined"),
    "checked": ("checked", "chequered", "checkerboard"),
    "dotted": ("dotted", "spotted", "polka-dot"),
    "speckled": ("speckled", "flecked", "mottled"),
    "wavy": ("wavy", "rippled", "wave-patterned"),
    "beige": ("beige", "sandy", "cream"),
    "grey": ("grey", "silvery", "ash-grey"),
    "sage": ("sage", "mint", "grey-green"),
    "mauve": ("mauve", "lilac", "lavender"),
    "aqua": ("aqua", "ice-blue"),
}
NOUNS = ("ground", "background", "backdrop", "surface", "paper", "cloth")
MASS_NOUNS = ("paper", "cloth")
PLURALS = {"cross": "crosses"}
NUMBERS = {2: "two", 3: "three", 4: "four"}
ANYTHING = ("shape", "figure", "thing", "object")

TOWARDS = {
    "left": ("to the left of", "left of", "on the left of", "on the left-hand side of"),
    "right": ("to the right of", "right of", "on the right of", "on the right-hand side of"),
    "above": ("above", "over", "higher up than", "directly above"),
    "below": ("below", "under", "underneath", "beneath"),
    "upper left": ("to the upper left of", "up and to the left of", "above and left of"),
    "upper right": ("to the upper right of", "up and to the right of", "above and right of"),
    "lower left": ("to the lower left of", "down and to the left of", "below and left of"),
    "lower right": ("to the lower right of", "down and to the right of", "below and right of"),
    "beside": ("beside", "next to", "alongside", "side by side with"),
    "near": ("close to", "near", "not far from"),
    "far": ("far from", "a long way from", "well away from"),
}
# The same, told of something just mentioned.
FROM_IT = {
    "left": ("to its left", "on its left", "left of it"),
    "right": ("to its right", "on its right", "right of it"),
    "above": ("above it", "over it", "higher up"),
    "below": ("below it", "underneath it", "under it"),
    "upper left": ("to its upper left", "up and to its left"),
    "upper right": ("to its upper right", "up and to its right"),
    "lower left": ("to its lower left", "down and to its left"),
    "lower right": ("to its lower right", "down and to its right"),
    "beside": ("beside it", "next to it", "by its side"),
    "near": ("close by", "near it", "not far from it"),
    "far": ("far from it", "a long way off", "well away from it"),
}
WHERE = {
    "upper left": ("in the upper left corner", "at the top left", "in the upper left"),
    "upper right": ("in the upper right corner", "at the top right", "in the upper right"),
    "lower left": ("in the lower left corner", "at the bottom left", "in the lower left"),
    "lower right": ("in the lower right corner", "at the bottom right", "in the lower right"),
    "top": ("at the top", "near the upper edge", "in the upper part"),
    "bottom": ("at the bottom", "near the lower edge", "in the lower part"),
    "left": ("on the left", "on the left-hand side", "near the left edge"),
    "right": ("on the right", "on the right-hand side", "near the right edge"),
    "middle": ("in the middle", "in the centre", "right in the middle"),
}
COMPARED = {
    "larger": ("larger than", "bigger than"),
    "smaller": ("smaller than", "not as big as"),
    "same size": ("as big as", "the same size as", "no bigger or smaller than"),
}
IS = ("sits", "is", "lies", "rests", "stands", "can be seen")
SHOWS = ("There is", "The picture shows", "Here is", "We see", "Look for")
