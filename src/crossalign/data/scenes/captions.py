"""Captions of synthetic scenes: five differently worded sentences that mostly point at one scene alone."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from crossalign.data.scenes.claims import Claims, SceneIndex
from crossalign.data.scenes.families import FAMILIES, Family
from crossalign.data.scenes.teller import Teller

__all__ = ["SceneCaption", "write_captions"]

CAPTIONS_PER_SCENE = 5
TRIES = 4
AMBIGUOUS = 0.25


@dataclass(frozen=True)
class SceneCaption:
    """A caption with its ground truth.

    Attributes:
        text: one sentence.
        spans: start and end of a content word in characters, and the position in the scene of the object that
            it means; -1 for words about the ground.
        kinds: of each span: "shape", "colour", "size" or "ground".
        claims: everything the sentence says.
    """

    text: str
    spans: tuple[tuple[int, int, int], ...]
    kinds: tuple[str, ...]
    claims: Claims


def write_captions(position: int, scenes: SceneIndex, rng: random.Random) -> list[SceneCaption]:
    """Five captions of one scene, mostly each of another family of sentences.

    As a person who knows the other pictures would, most captions tell enough to point at their own scene;
    now and then one fits a second scene as well.
    """
    families = list(FAMILIES)
    # Weighted order without replacement (Efraimidis and Spirakis 2006).
    families.sort(key=lambda family: rng.random() ** (1 / FAMILIES[family]), reverse=True)
    captions: list[SceneCaption] = []
    spare: list[SceneCaption] = []
    texts: set[str] = set()
    # A scene of two objects has nothing to tell in some families: then others tell more than once.
    for family in itertools.cycle(families):
        caption, single = _tell(family, position, scenes, rng)
        if caption is not None and caption.text not in texts:
            (captions if single or rng.random() < AMBIGUOUS else spare).append(caption)
            texts.add(caption.text)
        if len(captions) == CAPTIONS_PER_SCENE or len(texts) >= 4 * CAPTIONS_PER_SCENE:
            break
    chosen = (captions + spare)[:CAPTIONS_PER_SCENE]
    return rng.sample(chosen, len(chosen))


def _tell(
    family: Family, position: int, scenes: SceneIndex, rng: random.Random
) -> tuple[SceneCaption | None, bool]:
    """One caption of a family, and whether it is true of its own scene alone."""
    caption = None
    for _ in range(TRIES):
        teller = Teller(scenes[position], rng)
        if not family(teller):
            continue
        caption = SceneCaption(teller.text, tuple(teller.spans), tuple(teller.kinds), teller.claims)
        if all(found == position for found in scenes.find(caption.claims)):
            return caption, True
    return caption, False
