"""Nouns, adjectives, verbs and numerals of English captions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from crossalign.errors import missing_extra

__all__ = ["ClassifiedWord", "WordClass", "classified_words"]

WordClass = Literal["nouns", "adjectives", "verbs", "numerals"]

# A possessive or a contraction is a word of its own, as in the corpus that the tagger has learnt from.
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*|['’][^\W_]+|[^\w\s]")
# Beginnings of the tags of the British National Corpus (CLAWS C5). Pronouns ("one", "something") are none of these.
_CLASSES: dict[str, WordClass] = {
    "N": "nouns",
    "AJ": "adjectives",
    "V": "verbs",
    "CRD": "numerals",
    "ORD": "numerals",
}


@dataclass(frozen=True)
class ClassifiedWord:
    """A word: its first character, its last one plus one, its class; None for words of any other."""

    start: int
    end: int
    word_class: WordClass | None


def classified_words(texts: Sequence[str]) -> Iterator[list[ClassifiedWord]]:
    """The words and marks of each text, in order, by the Hannover Tagger's English model.

    A trained hidden Markov model that comes with its package (Wartena, KONVENS 2019); about a thousand captions a
    second.

    Raises:
        CrossAlignError: the package is not installed.
    """
    tagger = _tagger()
    for text in texts:
        found = list(_WORD.finditer(text))
        # The tagger reads a typewriter's apostrophe.
        tagged = tagger.tag_sent([word.group().replace("’", "'") for word in found]) if found else []
        yield [
            ClassifiedWord(word.start(), word.end(), _class_of(tag))
            for word, (_, _, tag) in zip(found, tagged, strict=True)
        ]


def _class_of(tag: str) -> WordClass | None:
    return next((name for beginning, name in _CLASSES.items() if tag.startswith(beginning)), None)


def _tagger() -> Any:
    try:
        from HanTa import HanoverTagger
    except ImportError:
        raise missing_extra("HanTa", "tagger", "telling nouns from verbs (objective.lca.words)") from None
    return HanoverTagger.HanoverTagger("morphmodel_en.pgz")
