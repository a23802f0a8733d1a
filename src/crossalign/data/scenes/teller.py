"""A sentence in the making that remembers which object each of its words means and what it claims."""

from __future__ import annotations

import random
from collections.abc import Sequence

from crossalign.data.scenes.claims import Claims, Description, plain_relations
from crossalign.data.scenes.words import ANYTHING, MASS_NOUNS, NOUNS, NUMBERS, VALUES
from crossalign.data.scenes.world import Scene

__all__ = ["GROUND", "KINDS", "Teller"]

GROUND = -1
KINDS = ("shape", "colour", "size", "ground")


class Teller:
    """One caption in the making: its text, the object behind each word, and what it says of the scene."""

    def __init__(self, scene: Scene, rng: random.Random) -> None:
        self.scene = scene
        self.rng = rng
        self.text = ""
        self.spans: list[tuple[int, int, int]] = []
        self.kinds: list[str] = []
        self._things: list[tuple[int, Description]] = []
        self._relations: list[tuple[str, tuple[int, ...]]] = []
        self._places: list[tuple[int, str]] = []
        self._texture: str | None = None
        self._tone: str | None = None
        self._count: int | None = None

    @property
    def claims(self) -> Claims:
        """What has been said so far."""
        position = {item: thing for thing, (item, _) in enumerate(self._things)}
        return Claims(
            things=tuple(description for _, description in self._things),
            relations=tuple((name, tuple(position[i] for i in who)) for name, who in self._relations),
            places=tuple((position[item], place) for item, place in self._places),
            texture=self._texture,
            tone=self._tone,
            count=self._count,
        )

    # ------------------------------------------------------------------------------------------------- words

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.rng.random() < probability

    def pick(self, choices: Sequence[str]) -> str:
        """One of several wordings, the first three times as often as any other."""
        return self.rng.choices(choices, weights=(3, *[1] * (len(choices) - 1)))[0]

    def say(self, *texts: str) -> Teller:
        """Add text that means no object; empty text is left out, punctuation follows without a space."""
        for text in texts:
            if text:
                self.text += text if not self.text or text[0] in ",.;:" else f" {text}"
        return self

    def say_value(self, value: str, item: int, kind: str, wording: str | None = None) -> Teller:
        """Add a word for a shape, colour or size, and remember which object it means."""
        word = wording or self.pick(VALUES[value])
        self.say(word)
        self.spans.append((len(self.text) - len(word), len(self.text), item))
        self.kinds.append(kind)
        return self

    def end(self) -> bool:
        """Finish the sentence: a capital first, mostly a full stop last. Always true."""
        self.text = self.text[0].upper() + self.text[1:]
        if self.chance(0.8):
            self.text += "."
        return True

    # ------------------------------------------------------------------------------------------------ things

    def describe(self, item: int, *, shape: bool | None = None, size: bool | None = None) -> Description:
        """Decide what to tell of an object: enough that it is the only one in its scene that fits."""
        wanted = self.scene.objects[item]
        said = Description(wanted.shape, wanted.colour, wanted.size if size is not False else None)
        for _ in range(4):
            tell_size = self.chance(0.12 if wanted.size == "medium" else 0.45) if size is None else size
            tell_shape = self.chance(0.93) if shape is None else shape
            attempt = Description(
                shape=wanted.shape if tell_shape else None,
                colour=wanted.colour if self.chance(0.86) or not tell_shape else None,
                size=wanted.size if tell_size else None,
            )
            if sum(attempt.fits(other) for other in self.scene.objects) == 1:
                return attempt
        return said

    def mention(self, item: int, description: Description) -> None:
        """Claim that the scene holds such an object."""
        self._things.append((item, description))

    def relate(self, name: str, *items: int) -> None:
        """Claim that mentioned objects stand in a relation."""
        self._relations.append((name, items))

    def put(self, item: int, place: str) -> None:
        """Claim where in the picture a mentioned object is."""
        self._places.append((item, place))

    def say_thing(self, item: int, article: str = "a", description: Description | None = None) -> Teller:
        """Mention an object and add its noun phrase: "a small red circle", "something pink"."""
        told = description or self.describe(item)
        self.mention(item, told)
        size = self.pick(VALUES[told.size]) if told.size else None
        colour = self.pick(VALUES[told.colour]) if told.colour else None
        shape = self.pick(VALUES[told.shape]) if told.shape else self.rng.choice(ANYTHING)
        behind = ""
        if told.shape is None and article == "a" and self.chance(0.5):
            article, shape = "something", ""
        elif told.colour and told.shape and self.chance(0.05):
            behind, colour = ("in" if self.chance(0.5) else "coloured"), None
        both = size is not None and colour is not None and article == "something"
        first = size or colour or shape
        if article == "a" and first[0] in "aeiou":
            article = "an"
        self.say(article)
        if told.size and size:
            self.say_value(told.size, item, "size", size).say("and" if both else "")
        if told.colour and colour:
            self.say_value(told.colour, item, "colour", colour)
        if told.shape:
            self.say_value(told.shape, item, "shape", shape)
        else:
            self.say(shape)
        if told.colour and behind:
            self.say(behind).say_value(told.colour, item, "colour", VALUES[told.colour][0])
        return self

    def find_related(
        self, names: Sequence[str], *, anchors: Sequence[int] | None = None
    ) -> tuple[str, int, int] | None:
        """A relation that plainly holds between two objects: its name, the first, the second."""
        plain = plain_relations(self.scene)
        found = [
            (name, who[0], who[1])
            for name in names
            for who in plain[name]
            if anchors is None or who[1] in anchors
        ]
        return self.rng.choice(found) if found else None

    # ---------------------------------------------------------------------------------------------- the whole

    def say_ground(self, preposition: str | None = None) -> Teller:
        """Add the ground: "on a grey striped cloth", "against a dotted backdrop"."""
        noun = self.pick(NOUNS)
        tell_tone = self.chance(0.4)
        words = []
        if tell_tone:
            self._tone = self.scene.tone
            words.append((self.scene.tone, self.pick(VALUES[self.scene.tone])))
        if not tell_tone or self.chance(0.75):
            self._texture = self.scene.texture
            # "A plain beige cloth", but "a beige striped cloth".
            place = 0 if self._texture == "plain" else len(words)
            words.insert(place, (self._texture, self.pick(VALUES[self._texture])))
        if preposition is None:
            preposition = "against" if noun == "backdrop" else "on"
        bare = noun in MASS_NOUNS or not preposition
        self.say(preposition, "" if bare else ("an" if words[0][1][0] in "aeiou" else "a"))
        for value, word in words:
            self.say_value(value, GROUND, "ground", word)
        self.say(noun)
        self.spans.append((len(self.text) - len(noun), len(self.text), GROUND))
        self.kinds.append("ground")
        return self

    def count(self) -> str:
        """Claim how many objects the scene has, and return the number as a word."""
        self._count = len(self.scene.objects)
        return NUMBERS[self._count]
