"""How often words find the regions that show them: against chance, and against a base model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

from rich.table import Table

from crossalign.errors import CrossAlignError
from crossalign.evaluation.encoded_pairs import UNITS, UNITS_SAID, Units, encoded_pairs
from crossalign.evaluation.grounding import GroundingDifference, GroundingResult, GroundingTally
from crossalign.evaluation.scene_words import region_rule
from crossalign.explain.known_words import KnownWords
from crossalign.model import RetrievalModel
from crossalign.sources import Sources

__all__ = ["MEASURES", "Measure", "WordScores", "score_table", "score_words"]

Measure = Literal["accuracy", "pointing"]
MEASURES: tuple[Measure, ...] = ("accuracy", "pointing")
_SAID: dict[Measure, str] = {"accuracy": "shows it", "pointing": "points at it"}


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

    def less(self, base: WordScores, units: Units, measure: Measure) -> GroundingDifference | None:
        """By how much these words are found more often than by a base model.

        None where different things make a region right for the two, as for detected boxes and the cells of a grid.
        """
        mine, other = self.tallies[units, measure], base.tallies[units, measure]
        return mine.less(other) if mine.rule == other.rule else None

    def to_json(self, base: WordScores | None = None) -> dict[str, Any]:
        """As plain values: by units and measure the result and, against a base model, the difference."""
        values: dict[str, Any] = {}
        for units, measure in self.tallies:
            entry = self.result(units, measure).to_json()
            if base is not None:
                less = self.less(base, units, measure)
                entry["less_base"] = None if less is None else less.to_json()
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
    with closing(encoded_pairs(model, *sources.split(model, split), progress=progress)) as encoded:
        for pair in encoded:
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


def score_table(name: str, scores: WordScores, base_name: str, base: WordScores | None) -> Table:
    """The scores of a model, and those of its base model where there is one, for a terminal."""
    table = Table(
        title=f"Words that find their region, in percent: {scores.source}",
        caption="intervals: 95%, bootstrap over images",
    )
    for heading in ("compared", "region", "model"):
        table.add_column(heading)
    for heading in ("found", "interval", "chance", "words"):
        table.add_column(heading, justify="right")
    if base is not None:
        table.add_column("less base", justify="right", no_wrap=True)
    models = [(name, scores)] if base is None else [(base_name, base), (name, scores)]
    for units, measure in scores.tallies:
        for place, (shown, one) in enumerate(models):
            result = one.result(units, measure)
            low, high = result.interval
            less = ""
            if base is not None and one is scores:
                less = _told_difference(scores.less(base, units, measure))
            table.add_row(
                *(("", "") if place else (UNITS_SAID[units], _SAID[measure])),
                shown,
                f"{result.accuracy:.1f}",
                f"{low:.1f}–{high:.1f}",
                f"{result.chance:.1f}",
                f"{result.words:,}",
                *([] if base is None else [less]),
                end_section=place == len(models) - 1,
            )
    return table


def _told_difference(gain: GroundingDifference | None) -> str:
    if gain is None:
        return "judged differently"
    return f"{gain.difference:+.1f} ({gain.interval[0]:+.1f} to {gain.interval[1]:+.1f})"
