"""What a caption says of a scene, and of which scenes that is true."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from crossalign.data.scenes.world import SIZES, Scene, SceneObject

__all__ = ["Claims", "Description", "SceneIndex", "in_place", "plain_relations"]


@dataclass(frozen=True)
class Description:
    """An object as far as a caption tells it; None is left unsaid."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None

    def fits(self, item: SceneObject) -> bool:
        """Whether the object is as described."""
        return (
            self.shape in (None, item.shape)
            and self.colour in (None, item.colour)
            and self.size in (None, item.size)
        )


@dataclass(frozen=True)
class Claims:
    """Everything a caption says.

    Attributes:
        things: the objects it mentions, each a different one.
        relations: name and positions in ``things``: ``("left", 0, 1)`` says that thing 0 is left of thing 1.
        places: position in ``things`` and where in the picture it is.
        texture, tone, count: of the ground, and how many objects the scene has; None is left unsaid.
    """

    things: tuple[Description, ...]
    relations: tuple[tuple[str, tuple[int, ...]], ...] = ()
    places: tuple[tuple[int, str], ...] = ()
    texture: str | None = None
    tone: str | None = None
    count: int | None = None

    def hold(self, scene: Scene) -> bool:
        """Whether all of it is true of the scene, read with some tolerance of what "left" or "near" means."""
        if not self._frame_holds(scene):
            return False
        fitting = [[item for item in scene.objects if thing.fits(item)] for thing in self.things]
        return any(self._stand(chosen) for chosen in itertools.product(*fitting))

    def _frame_holds(self, scene: Scene) -> bool:
        return (
            self.texture in (None, scene.texture)
            and self.tone in (None, scene.tone)
            and self.count in (None, len(scene.objects))
        )

    def _stand(self, chosen: Sequence[SceneObject]) -> bool:
        """Whether the objects chosen for the things are different ones and stand as claimed."""
        if len(set(map(id, chosen))) < len(chosen):
            return False
        return all(related(name, [chosen[i] for i in who], 1.0) for name, who in self.relations) and all(
            in_place(place, chosen[who], 1.0) for who, place in self.places
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values; what is left unsaid is left out."""
        found = asdict(self)
        found["things"] = [{k: v for k, v in thing.items() if v} for thing in found["things"]]
        return {key: value for key, value in found.items() if value}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Claims:
        """The inverse of ``to_json``."""
        return cls(
            things=tuple(Description(**thing) for thing in value["things"]),
            relations=tuple((name, tuple(who)) for name, who in value.get("relations", ())),
            places=tuple((who, place) for who, place in value.get("places", ())),
            texture=value.get("texture"),
            tone=value.get("tone"),
            count=value.get("count"),
        )


# Each relation and place takes a tolerance: 0 for what a caption may say without stretching a word, 1 for the
# widest reading under which a reader would still let the word pass. Lengths are relative to the picture.


def related(name: str, items: Sequence[SceneObject], tolerance: float) -> bool:
    """Whether objects stand in a relation: two of them, or for ``between`` the middle one first."""
    return _RELATIONS[name](tolerance, *items)


@lru_cache(maxsize=8)
def plain_relations(scene: Scene) -> dict[str, list[tuple[int, ...]]]:
    """By name, the positions of all objects that stand in a relation without stretching its word."""
    return {
        name: [
            who
            for who in itertools.permutations(range(len(scene.objects)), 3 if name == "between" else 2)
            if related(name, [scene.objects[i] for i in who], 0.0)
        ]
        for name in _RELATIONS
    }


def in_place(name: str, item: SceneObject, tolerance: float) -> bool:
    """Whether the object's centre is in a part of the picture."""
    return _PLACES[name](item.x, item.y, 0.36 + 0.06 * tolerance)


def _before(ahead: float, aside: float, tolerance: float) -> bool:
    """Ahead by enough, and more ahead than aside."""
    return ahead >= 0.2 - 0.14 * tolerance and abs(aside) <= ahead * (0.7 + 0.8 * tolerance)


def _diagonal(first: float, second: float, tolerance: float) -> bool:
    return min(first, second) >= 0.17 - 0.11 * tolerance


def _gap(a: SceneObject, b: SceneObject) -> float:
    return math.hypot(a.x - b.x, a.y - b.y) - a.radius - b.radius


def _between(tolerance: float, middle: SceneObject, a: SceneObject, b: SceneObject) -> bool:
    across, down = b.x - a.x, b.y - a.y
    length = math.hypot(across, down)
    along = ((middle.x - a.x) * across + (middle.y - a.y) * down) / length**2
    aside = abs((middle.x - a.x) * down - (middle.y - a.y) * across) / length
    return 0.25 - 0.1 * tolerance <= along <= 0.75 + 0.1 * tolerance and aside <= 0.1 + 0.1 * tolerance


_RELATIONS: dict[str, Callable[..., bool]] = {
    "left": lambda t, a, b: _before(b.x - a.x, b.y - a.y, t),
    "right": lambda t, a, b: _before(a.x - b.x, b.y - a.y, t),
    "above": lambda t, a, b: _before(b.y - a.y, b.x - a.x, t),
    "below": lambda t, a, b: _before(a.y - b.y, b.x - a.x, t),
    "upper left": lambda t, a, b: _diagonal(b.x - a.x, b.y - a.y, t),
    "upper right": lambda t, a, b: _diagonal(a.x - b.x, b.y - a.y, t),
    "lower left": lambda t, a, b: _diagonal(b.x - a.x, a.y - b.y, t),
    "lower right": lambda t, a, b: _diagonal(a.x - b.x, a.y - b.y, t),
    "beside": lambda t, a, b: abs(a.y - b.y) <= 0.1 + 0.1 * t and _gap(a, b) <= 0.15 + 0.12 * t,
    "near": lambda t, a, b: _gap(a, b) <= 0.1 + 0.1 * t,
    "far": lambda t, a, b: _gap(a, b) >= 0.4 - 0.1 * t,
    "larger": lambda t, a, b: SIZES.index(a.size) > SIZES.index(b.size),
    "smaller": lambda t, a, b: SIZES.index(a.size) < SIZES.index(b.size),
    "same size": lambda t, a, b: a.size == b.size,
    "between": _between,
}
_PLACES: dict[str, Callable[[float, float, float], bool]] = {
    "upper left": lambda x, y, edge: x <= edge and y <= edge,
    "upper right": lambda x, y, edge: x >= 1 - edge and y <= edge,
    "lower left": lambda x, y, edge: x <= edge and y >= 1 - edge,
    "lower right": lambda x, y, edge: x >= 1 - edge and y >= 1 - edge,
    "top": lambda x, y, edge: y <= edge - 0.04,
    "bottom": lambda x, y, edge: y >= 1.04 - edge,
    "left": lambda x, y, edge: x <= edge - 0.04,
    "right": lambda x, y, edge: x >= 1.04 - edge,
    "middle": lambda x, y, edge: max(abs(x - 0.5), abs(y - 0.5)) <= edge - 0.24,
}


class SceneIndex:
    """Finds the scenes of which claims are true; sets of scenes are kept as the bits of integers."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self._scenes = scenes
        self._with_thing: defaultdict[Description, int] = defaultdict(int)
        self._with_frame: defaultdict[str | int, int] = defaultdict(int)
        self._with_values: defaultdict[tuple[str, int], int] = defaultdict(int)
        for position, scene in enumerate(scenes):
            bit = 1 << position
            for said in (scene.texture, scene.tone, len(scene.objects)):
                self._with_frame[said] |= bit
            values: Counter[str] = Counter()
            for item in scene.objects:
                kind = (item.shape, item.colour, item.size)
                for told in itertools.product(*((None, value) for value in kind)):
                    self._with_thing[Description(*told)] |= bit
                values.update(kind)
            for value, times in values.items():
                for fewer in range(1, times + 1):
                    self._with_values[value, fewer] |= bit

    def __getitem__(self, position: int) -> Scene:
        return self._scenes[position]

    def find(self, claims: Claims) -> Iterator[int]:
        """Positions of the scenes of which the claims hold, in order."""
        left = self._framed(claims)
        for thing in claims.things:
            left &= self._with_thing.get(thing, 0)
        return (position for position in _positions(left) if claims.hold(self._scenes[position]))

    def find_words(self, claims: Claims) -> Iterator[int]:
        """Positions of the scenes that have all that is named, whatever belongs to what and stands where."""
        left = self._framed(claims)
        said = Counter(v for thing in claims.things for v in (thing.shape, thing.colour, thing.size) if v)
        for value, times in said.items():
            left &= self._with_values.get((value, times), 0)
        return _positions(left)

    def _framed(self, claims: Claims) -> int:
        left = (1 << len(self._scenes)) - 1
        for said in (claims.texture, claims.tone, claims.count):
            if said is not None:
                left &= self._with_frame.get(said, 0)
        return left


def _positions(bits: int) -> Iterator[int]:
    while bits:
        yield (bits & -bits).bit_length() - 1
        bits &= bits - 1
