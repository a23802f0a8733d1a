"""Word-to-region accuracy of a model on synthetic scenes."""

from __future__ import annotations

from crossalign.data.scenes import SceneTruth
from crossalign.data.scenes.make import TRUTH
from crossalign.evaluation.encoded_pairs import encoded_pairs
from crossalign.evaluation.grounding import GroundingResult, grounding_accuracy
from crossalign.evaluation.region_match import Rule
from crossalign.model import RetrievalModel
from crossalign.sources import Sources

__all__ = ["ground_scenes", "has_scene_truth", "region_rule"]


def has_scene_truth(sources: Sources) -> bool:
    """Whether the collection knows which object each word means."""
    return (sources.collection.folder / TRUTH).is_file()


def region_rule(model: RetrievalModel, sources: Sources) -> Rule:
    """What makes a region right: ``overlap`` for detected boxes, ``centre`` for cells, also where boxes join them.

    Hardly a cell overlaps an object by half, so beside boxes it could not be right.
    """
    return "overlap" if "boxes" in (sources.regions, model.config.image.regions) else "centre"


def ground_scenes(
    model: RetrievalModel, sources: Sources, split: str, *, images_at_once: int = 50
) -> GroundingResult:
    """How often a word's local vector lies closest to a region that shows the word's object.

    Raises:
        CrossAlignError: the collection has no such truth or split.
    """
    truth = SceneTruth.load(sources.collection)
    pairs = encoded_pairs(model, *sources.split(model, split), images_at_once=images_at_once)
    samples = (pair.sample("locals", truth.words(pair.caption_id)) for pair in pairs)
    return grounding_accuracy(samples, rule=region_rule(model, sources))
