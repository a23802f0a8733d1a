"""How often words find the regions that show them: against chance, and against a base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from crossalign.errors import CrossAlignError
from crossalign.evaluation.encoded_pairs import UNITS, Units, encoded_pairs
from crossalign.evaluation.grounding import GroundingDifference, GroundingResult, GroundingTally
from crossalign.evaluation.scene_words import region_rule
from crossalign.explain.known_words import KnownWords
from crossalign.model import RetrievalModel
from crossalign.sources import Sources

__all__ = ["MEASURES", "Measure", "WordScores", "score_words"]

Measure = Literal["accuracy", "pointing"]
MEASURES: tuple[Measure, ...] = ("accuracy", "pointing")


@dataclass(frozen=True)
class WordScores:
    """The words of a split, counted before (``locals``) and after (``context``) context reasoning.

    Attributes:
        source: where the boxes of the words come from.
        tallies: by units and measure: ``accuracy`` asks whether the region shows the object (see
            ``regions_that_show``), ``pointing`` whether its centre lies in the object's box.
    """

    source: str
    tallies: Mapping[tuple[Units, Measure], GroundingTally]

    def result(self, units: Units, measure: Measure) -> GroundingResult:
        """Accuracy with interval and chance."""
        return self.tallies[units, measure].result()

    def less(self, base: WordScores, units: Units, measure: Measure) -> GroundingDifference:
        """By how much these words are found more often than by a base model."""
        return self.tallies[units, measure].less(base.tallies[units, measure])

    def to_json(self, base: WordScores | None = None) -> dict[str, Any]:
        """As plain values: by units and measure the result and, against a base model, the difference."""
        values: dict[str, Any] = {}
        for units, measure in self.tallies:
            entry = self.result(units, measure).to_json()
            if base is not None:
                entry["less_base"] = self.less(base, units, measure).to_json()
            values.setdefault(units, {})[measure] = entry
        return values


def score_words(
    model: RetrievalModel, sources: Sources, split: str, known: KnownWords, *, progress: bool = False
) -> WordScores:
    """Look for the known words of a split in their images.

    Raises:
        CrossAlignError: no such split, or no word of it is known.
    """
    tallies = {
        (units, measure): GroundingTally(region_rule(model, sources) if measure == "accuracy" else "point")
        for units in UNITS
        for measure in MEASURES
    }
    found = False
    for pair in encoded_pairs(model, *sources.split(model, split), progress=progress):
        spans = known.of(pair.image_id, pair.caption_id, pair.text)
        found = found or bool(spans)
        for (units, _), tally in tallies.items():
            tally.add(pair.sample(units, spans))
    if not found:
        raise CrossAlignError(
            f"split '{split}' of {sources.collection.folder}: no word has a box ({known.source}); "
            "give the boxes of these photos"
        )
    return WordScores(known.source, tallies)
