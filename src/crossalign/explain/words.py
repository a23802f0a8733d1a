"""The words of a caption, as a reader sees them."""

from __future__ import annotations

from dataclasses import dataclass

from crossalign.data.labels import WORD

__all__ = ["CaptionWord", "caption_words"]

# Articles, pronouns, prepositions, conjunctions, auxiliaries: English words that name nothing one could point at.
_FUNCTION_WORDS = """
a an the this that these those some any each every another other others both all
i you he she it we they me him her us them my your his its our their hers theirs who whom whose which what
himself herself itself themselves one's there here
of in on at by to from with without for as into onto off over under above below between among through across
along around behind beside besides before after during near next toward towards up down out upon against about
inside outside within while until till than per via like
and or but nor so yet if then when where because though although whether
is are was were be been being am isn't aren't has have had having do does did doing can could will would shall
should may might must not no very too also just only
"""
_NAMELESS = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class CaptionWord:
    """A word: its first character, its last one plus one, and itself as it is written."""

    start: int
    end: int
    text: str

    @property
    def names(self) -> bool:
        """Whether the word may name something; English articles, prepositions and their like do not."""
        return self.text.lower().replace("’", "'") not in _NAMELESS


def caption_words(text: str) -> list[CaptionWord]:
    """The words of a text in order, without punctuation."""
    return [CaptionWord(found.start(), found.end(), found.group()) for found in WORD.finditer(text)]
