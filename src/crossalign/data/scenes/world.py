"""What a synthetic scene consists of, and how families of confusable scenes are drawn by lot."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["COLOURS", "SHAPES", "SIZES", "TEXTURES", "TONES", "Scene", "SceneObject", "sample_scenes"]

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "heart", "crescent")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
SIZES = ("small", "medium", "large")
TEXTURES = ("plain", "striped", "checked", "dotted", "speckled", "wavy")
TONES = ("beige", "grey", "sage", "mauve", "aqua")

# Half the side of an object relative to the picture; the ranges leave gaps, so that sizes are told apart.
RADII = {"small": (0.075, 0.088), "medium": (0.115, 0.13), "large": (0.165, 0.19)}
GAP = 0.035
JITTER = 0.012

# What two objects can exchange. To exchange some things is to exchange all others, hence no "shape".
EXCHANGES = (("colour",), ("place",), ("size",), ("colour", "place"), ("colour", "size"), ("place", "size"))


@dataclass(frozen=True)
class SceneObject:
    """One drawn shape: its kind, its centre and half side relative to the picture, its turn in degrees."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """A textured ground with two to four objects.

    Attributes:
        texture, tone: what the ground looks like.
        objects: in drawing order.
        family: scenes of a family hold the same words; what belongs to what and stands where differs.
        seed: of everything random in its drawing.
    """

    texture: str
    tone: str
    objects: tuple[SceneObject, ...]
    family: int
    seed: int


def sample_scenes(count: int, seed: str) -> list[Scene]:
    """Draw ``count`` scenes by lot in families of two to four; a family stands together."""
    scenes: list[Scene] = []
    for family in itertools.count():
        if len(scenes) >= count:
            return scenes
        rng = random.Random(f"{seed}/{family}")
        wanted = rng.choices((2, 3, 4), weights=(3, 4, 3))[0]
        if count - len(scenes) - wanted == 1:
            wanted += 1  # a scene left alone at the end would have no one to be confused with
        scenes.extend(_sample_family(rng, family, min(wanted, count - len(scenes))))
    raise AssertionError("unreachable")


def _sample_family(rng: random.Random, family: int, members: int) -> list[Scene]:
    base = _sample_base(rng, family)
    first, second = base.objects[:2]
    equal_sizes = first.size == second.size
    choices = [exchange for exchange in EXCHANGES if not (equal_sizes and "size" in exchange)]
    # Exchanges of one thing come first: those are the hardest to tell from the base.
    choices.sort(key=lambda exchange: (len(exchange), rng.random()))
    scenes = [base, *(_exchanged(base, exchange, rng) for exchange in choices[: members - 1])]
    return [replace(scene, objects=_shuffled(scene.objects, rng)) for scene in scenes]


def _sample_base(rng: random.Random, family: int) -> Scene:
    """A scene whose first two objects differ in shape and colour, and no two objects are alike."""
    while True:
        kinds = _sample_kinds(rng, rng.choices((2, 3, 4), weights=(3, 5, 3))[0])
        radii = [rng.uniform(*RADII[size]) for _, _, size in kinds]
        # The first two may exchange places or sizes later: room for the larger one is kept at both.
        roomy = [max(radii[0], radii[1])] * 2 + radii[2:]
        centres = _place(rng, roomy)
        if centres is None:
            continue
        objects = tuple(
            SceneObject(shape, colour, size, x, y, radius, rng.uniform(-9, 9))
            for (shape, colour, size), (x, y), radius in zip(kinds, centres, radii, strict=True)
        )
        return Scene(rng.choice(TEXTURES), rng.choice(TONES), objects, family, rng.getrandbits(32))


def _sample_kinds(rng: random.Random, count: int) -> list[tuple[str, str, str]]:
    shapes, colours = rng.sample(SHAPES, 2), rng.sample(COLOURS, 2)
    kinds = [(shape, colour, _sample_size(rng)) for shape, colour in zip(shapes, colours, strict=True)]
    while len(kinds) < count:
        # Now and then an object repeats a shape or a colour, so that one word alone does not always point.
        shape = rng.choice(shapes) if rng.random() < 0.2 else rng.choice(SHAPES)
        colour = rng.choice(colours) if rng.random() < 0.2 else rng.choice(COLOURS)
        if all((shape, colour) != kind[:2] for kind in kinds):
            kinds.append((shape, colour, _sample_size(rng)))
    return kinds


def _sample_size(rng: random.Random) -> str:
    return rng.choices(SIZES, weights=(4, 3, 3))[0]


def _place(rng: random.Random, radii: Sequence[float]) -> list[tuple[float, float]] | None:
    """Centres at which nothing overlaps, or None when the objects found no room."""
    centres: list[tuple[float, float]] = []
    for index, radius in enumerate(radii):
        margin = radius + 2 * JITTER
        for _ in range(40):
            x, y = rng.uniform(margin, 1 - margin), rng.uniform(margin, 1 - margin)
            if all(
                math.hypot(x - other_x, y - other_y) > 1.06 * (radius + radii[other]) + GAP
                for other, (other_x, other_y) in enumerate(centres[:index])
            ):
                centres.append((x, y))
                break
        else:
            return None
    return centres


def _exchanged(base: Scene, exchange: Sequence[str], rng: random.Random) -> Scene:
    """The base after its first two objects exchanged something, everything moved a little."""
    first, second, *others = base.objects
    if "colour" in exchange:
        first, second = replace(first, colour=second.colour), replace(second, colour=first.colour)
    if "place" in exchange:
        first, second = replace(first, x=second.x, y=second.y), replace(second, x=first.x, y=first.y)
    if "size" in exchange:
        first, second = (
            replace(first, size=second.size, radius=second.radius),
            replace(second, size=first.size, radius=first.radius),
        )
    objects = tuple(
        replace(
            item,
            x=item.x + rng.uniform(-JITTER, JITTER),
            y=item.y + rng.uniform(-JITTER, JITTER),
            angle=rng.uniform(-9, 9),
        )
        for item in (first, second, *others)
    )
    return replace(base, objects=objects, seed=rng.getrandbits(32))


def _shuffled(objects: Sequence[SceneObject], rng: random.Random) -> tuple[SceneObject, ...]:
    return tuple(rng.sample(objects, len(objects)))
