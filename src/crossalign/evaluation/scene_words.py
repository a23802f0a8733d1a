"""Word-to-region accuracy of a model on synthetic scenes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from crossalign.data.scenes import SceneTruth
from crossalign.data.scenes.make import TRUTH
from crossalign.evaluation.grounding import GroundingResult, GroundingSample, grounding_accuracy
from crossalign.model import RetrievalModel
from crossalign.sources import Sources

__all__ = ["ground_scenes", "has_scene_truth"]


def has_scene_truth(sources: Sources) -> bool:
    """Whether the collection knows which object each word means."""
    return (sources.collection.folder / TRUTH).is_file()


@torch.inference_mode()
def ground_scenes(
    model: RetrievalModel, sources: Sources, split: str, *, images_at_once: int = 50
) -> GroundingResult:
    """How often a word's local vector lies closest to a region that shows the word's object.

    Raises:
        CrossAlignError: the collection has no such truth or split.
    """
    truth = SceneTruth.load(sources.collection)
    part, images, texts = sources.split(model, split)
    model.eval()

    def samples() -> Iterator[GroundingSample]:
        for start in range(0, len(part.image_ids), images_at_once):
            positions = np.arange(start, min(start + images_at_once, len(part.image_ids)))
            captions = np.flatnonzero(np.isin(part.image_of_text, positions))
            image_inputs = images(positions).to(model.device)
            image = model.image_tower(image_inputs)
            boxes = model.image_tower.region_boxes(image_inputs).cpu()
            text = model.text_tower(texts(captions).to(model.device))
            for row, caption in enumerate(captions):
                at = int(part.image_of_text[caption]) - start
                offsets = torch.tensor(model.text_tower.offsets(part.texts[caption]))
                yield GroundingSample(
                    image_id=part.image_ids[start + at],
                    regions=image.locals[at].cpu(),
                    boxes=boxes[at],
                    words=text.locals[row, : len(offsets)].cpu(),
                    offsets=offsets,
                    spans=truth.words(part.caption_ids[caption]),
                    region_mask=image.mask[at].cpu(),
                )

    boxes_of_objects = sources.has_boxes or model.config.image.regions == "boxes"
    return grounding_accuracy(samples(), rule="overlap" if boxes_of_objects else "centre")
