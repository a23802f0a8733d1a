"""Families of sentences about a scene: each tells a part of what is to be seen in its own form."""

from __future__ import annotations

from collections.abc import Callable

from crossalign.data.scenes.claims import Description, in_place, plain_relations
from crossalign.data.scenes.teller import Teller
from crossalign.data.scenes.words import COMPARED, FROM_IT, IS, PLURALS, SHOWS, TOWARDS, WHERE

__all__ = ["FAMILIES", "Family"]

Family = Callable[[Teller], bool]

DIRECTIONS = ("left", "right", "above", "below")
DIAGONALS = ("upper left", "upper right", "lower left", "lower right")
ASIDE = ("beside", "near", "far")
# Names stand as often as they are wanted.
RELATIONS = DIRECTIONS * 4 + DIAGONALS * 2 + ASIDE
SIZE_RELATIONS = ("larger", "smaller", "same size")
PLACES = (*DIAGONALS, "top", "bottom", "left", "right", "middle")


def _where(teller: Teller, item: int) -> str | None:
    """Claim where an object is and return the words, or None when it is nowhere in particular."""
    found = [place for place in PLACES if in_place(place, teller.scene.objects[item], 0.0)]
    if not found:
        return None
    place = found[0] if teller.chance(0.7) else teller.rng.choice(found)
    teller.put(item, place)
    return teller.pick(WHERE[place])


def _items(teller: Teller, count: int) -> list[int]:
    everyone = range(len(teller.scene.objects))
    return teller.rng.sample(everyone, min(count, len(everyone)))


def _end(teller: Teller, ground: float = 0.25) -> bool:
    if teller.chance(ground):
        teller.say_ground()
    return teller.end()


# A family tells one form of sentence. It returns False when the scene has nothing to tell in this form.


def _relation(teller: Teller) -> bool:
    """A small red circle sits to the left of a blue star."""
    found = teller.find_related(RELATIONS)
    if found is None:
        return False
    name, a, b = found
    shows = teller.chance(0.35)
    teller.say(teller.pick(SHOWS) if shows else "").say_thing(a)
    teller.say("" if shows else teller.pick((*IS, "")), teller.pick(TOWARDS[name]))
    teller.say_thing(b, teller.pick(("a", "the"))).relate(name, a, b)
    return _end(teller)


def _fronted(teller: Teller) -> bool:
    """Above the big heart sits a green ring."""
    found = teller.find_related((*DIRECTIONS * 4, *DIAGONALS * 2, "beside", "near"))
    if found is None:
        return False
    name, a, b = found
    teller.say(teller.pick([word for word in TOWARDS[name] if word != "higher up than"]))
    teller.say_thing(b, teller.pick(("the", "a"))).say(
        teller.pick(("sits", "is", "lies", "there is", "we find"))
    )
    teller.say_thing(a).relate(name, a, b)
    return _end(teller, 0.15)


def _accompanied(teller: Teller) -> bool:
    """A blue star with a small red circle to its left and a ring above it."""
    found = teller.find_related(RELATIONS)
    if found is None:
        return False
    name, a, b = found
    teller.say_thing(b).say(teller.pick(("with", "and"))).say_thing(a).say(teller.pick(FROM_IT[name]))
    teller.relate(name, a, b)
    another = teller.find_related((*DIRECTIONS, *DIAGONALS), anchors=[b])
    if another is not None and another[1] != a and teller.chance(0.6):
        teller.say("and").say_thing(another[1]).say(teller.pick(FROM_IT[another[0]]))
        teller.relate(another[0], another[1], b)
        return _end(teller, 0.0)
    return _end(teller, 0.0 if name == "far" else 0.2)


def _listing(teller: Teller) -> bool:
    """A red circle, a blue star and a green cross scattered over a chequered cloth."""
    items = _items(teller, teller.rng.choice((2, 3, 3)))
    for position, item in enumerate(items):
        if position:
            teller.say("and" if position == len(items) - 1 else ",")
        teller.say_thing(item)
    if teller.chance(0.6):
        teller.say_ground(teller.pick(("on", "scattered over", "laid out on", "on top of")))
    return teller.end()


def _placed(teller: Teller) -> bool:
    """In the upper left corner there is a big yellow heart."""
    first, *others = _items(teller, 2)
    where = _where(teller, first)
    if where is None:
        return False
    if teller.chance(0.5):
        teller.say(where, teller.pick(("there is", "sits", "is", "lies"))).say_thing(first)
    else:
        teller.say_thing(first).say(teller.pick((*IS, "")), where)
    if others and teller.chance(0.75):
        where = _where(teller, others[0])
        if where is not None:
            teller.say(", and").say_thing(others[0]).say(where)
    return _end(teller, 0.2)


def _predicate(teller: Teller) -> bool:
    """The circle is crimson, and the star below it is small and blue."""
    found = teller.find_related((*DIRECTIONS * 3, *DIAGONALS))
    if found is None:
        return False
    name, a, b = found
    objects = teller.scene.objects
    shapes = [item.shape for item in objects]
    if shapes.count(objects[a].shape) > 1 or shapes.count(objects[b].shape) > 1:
        return False
    for item in (b, a):
        thing = objects[item]
        size = thing.size if thing.size != "medium" and teller.chance(0.4) else None
        if item == a:
            teller.say(teller.pick((", and", "while", ";")))
        teller.mention(item, Description(thing.shape, thing.colour, size))
        teller.say("the").say_value(thing.shape, item, "shape")
        if item == a:
            teller.say(teller.pick(FROM_IT[name][:2]))
        teller.say("is")
        if size:
            teller.say_value(size, item, "size").say("and")
        teller.say_value(thing.colour, item, "colour")
    teller.relate(name, a, b)
    return teller.end()


def _compared(teller: Teller) -> bool:
    """The yellow ring is bigger than the pink heart below it."""
    found = teller.find_related((*DIRECTIONS * 3, *DIAGONALS, "near"))
    if found is None:
        return False
    name, b, a = found
    sizes = teller.find_related(SIZE_RELATIONS, anchors=[b])
    if sizes is None or sizes[1] != a:
        return False
    whole = teller.chance(0.6)
    teller.say_thing(a, "the" if whole else "a", teller.describe(a, shape=True, size=False))
    teller.say("is" if whole else ",", teller.pick(COMPARED[sizes[0]]))
    teller.say_thing(b, "the", teller.describe(b, shape=True, size=False)).say(teller.pick(FROM_IT[name]))
    teller.relate(sizes[0], a, b)
    teller.relate(name, b, a)
    return teller.end()


def _between(teller: Teller) -> bool:
    """Between a red star and a blue ring lies a small heart."""
    found = plain_relations(teller.scene)["between"]
    if not found:
        return False
    middle, a, b = teller.rng.choice(found)
    if teller.chance(0.5):
        teller.say("between").say_thing(a).say("and").say_thing(b).say(
            teller.pick(("lies", "sits", "is", "there is"))
        )
        teller.say_thing(middle)
    else:
        teller.say_thing(middle).say(
            teller.pick(("", "sits", "is", "lies")), teller.pick(("between", "in between"))
        )
        teller.say_thing(a, teller.pick(("a", "the"))).say("and").say_thing(b, teller.pick(("a", "the")))
    teller.relate("between", middle, a, b)
    return _end(teller, 0.1)


def _counted(teller: Teller) -> bool:
    """Three shapes on a plain ground, one of them a big purple diamond at the bottom."""
    teller.say(teller.count(), teller.pick(("shapes", "figures", "objects", "things")))
    if teller.chance(0.6):
        teller.say_ground()
    (item,) = _items(teller, 1)
    teller.say(teller.pick((", one of them", ", among them", ", including"))).say_thing(item)
    where = _where(teller, item) if teller.chance(0.7) else None
    if where is not None:
        teller.say(where)
    else:
        found = teller.find_related((*DIRECTIONS * 2, *DIAGONALS, "beside"), anchors=[item])
        if found is not None:
            name, other, _ = found
            teller.say("with").say_thing(other).say(teller.pick(FROM_IT[name]))
            teller.relate(name, other, item)
    return teller.end()


def _telegraphic(teller: Teller) -> bool:
    """Red circle on the left, small blue star on the right, grey cloth."""
    for item in _items(teller, 3 if teller.chance(0.4) else 2):
        teller.say("," if teller.text else "").say_thing(item, "", teller.describe(item, shape=True))
        where = _where(teller, item)
        if where is not None:
            teller.say(where)
    if teller.chance(0.35):
        teller.say(",").say_ground("")
    return teller.end()


def _alike(teller: Teller) -> bool:
    """Two stars, the red one above the small blue one."""
    objects = teller.scene.objects
    shapes = [item.shape for item in objects]
    shape = next((shape for shape in shapes if shapes.count(shape) == 2), None)
    if shape is None:
        return False
    a, b = teller.rng.sample([i for i, item in enumerate(objects) if item.shape == shape], 2)
    found = [f for f in [teller.find_related((*DIRECTIONS * 2, *DIAGONALS), anchors=[b])] if f and f[1] == a]
    if not found:
        return False
    teller.say("two", PLURALS.get(shape, f"{shape}s"), ",")
    for item in (a, b):
        teller.mention(item, Description(shape, objects[item].colour))
        teller.say("the").say_value(objects[item].colour, item, "colour").say("one")
        if item == a:
            teller.say(teller.pick(TOWARDS[found[0][0]]))
    teller.relate(found[0][0], a, b)
    return _end(teller)


def _chained(teller: Teller) -> bool:
    """A star above a red ring, which is left of a big blue cross."""
    first = teller.find_related((*DIRECTIONS * 2, *DIAGONALS))
    if first is None:
        return False
    name, a, b = first
    onward = teller.find_related((*DIRECTIONS * 2, *DIAGONALS, "beside", "near"))
    if onward is None or onward[1] != b or onward[2] == a:
        return False
    teller.say_thing(a).say(teller.pick(("", "is", "sits")), teller.pick(TOWARDS[name])).say_thing(b)
    teller.relate(name, a, b)
    teller.say(", which", teller.pick(("is", "lies", "sits")), teller.pick(TOWARDS[onward[0]])).say_thing(
        onward[2]
    )
    teller.relate(onward[0], b, onward[2])
    return teller.end()


def _grounded(teller: Teller) -> bool:
    """On a striped grey ground, a tiny blue star floats above a red circle."""
    found = teller.find_related((*DIRECTIONS * 4, *DIAGONALS * 2, *ASIDE))
    if found is None:
        return False
    name, a, b = found
    teller.say_ground().say(",").say_thing(a).say(teller.pick((*IS, "is placed")), teller.pick(TOWARDS[name]))
    teller.say_thing(b).relate(name, a, b)
    return teller.end()


# How often each form of sentence is wanted.
FAMILIES: dict[Family, float] = {
    _relation: 3,
    _fronted: 2,
    _accompanied: 2,
    _listing: 2,
    _placed: 2,
    _predicate: 1.5,
    _compared: 1.5,
    _between: 1,
    _counted: 1.5,
    _telegraphic: 1.5,
    _alike: 1.5,
    _chained: 1,
    _grounded: 2,
}
