"""Captions with their images, encoded unit by unit: what grounding and explanations look at."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.data.batch import ImageInputs, TextInputs
from crossalign.data.collection import Split
from crossalign.data.loading import ImageSource, TextSource
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.evaluation.grounding import GroundingSample
from crossalign.evaluation.region_match import GroundedWord
from crossalign.model import RetrievalModel, evaluation_mode
from crossalign.progress import tracked
from crossalign.scorers.settings import CrossEncoderSettings

__all__ = ["UNITS", "UNITS_SAID", "EncodedPair", "Units", "encode_pairs", "encoded_pairs"]

Units = Literal["locals", "context"]
UNITS: tuple[Units, ...] = get_args(Units)
UNITS_SAID: dict[Units, str] = {"locals": "before context", "context": "after context"}
"""What people are told of them."""


@dataclass(frozen=True)
class EncodedPair:
    """An image and a caption: R real regions, T tokens, joint width D; all on the CPU.

    Attributes:
        similarity: the pair's score, as retrieval sees it.
        regions: ``(R, D)`` and ``words`` ``(T, D)`` unit vectors, before (``locals``) and after (``context``) the
            encoders' context reasoning.
        boxes: ``(R, 4)`` relative xyxy boxes of the regions.
        offsets: ``(T, 2)`` first and last-plus-one character of each token; ``(0, 0)`` for special tokens.
    """

    image_id: str
    caption_id: str
    text: str
    similarity: float
    regions: Mapping[Units, Tensor]
    words: Mapping[Units, Tensor]
    boxes: Tensor
    offsets: Tensor

    def sample(self, units: Units, spans: Sequence[GroundedWord]) -> GroundingSample:
        """The pair as grounding counts it."""
        return GroundingSample(
            self.image_id, self.regions[units], self.boxes, self.words[units], self.offsets, spans
        )


def encoded_pairs(
    model: RetrievalModel,
    split: Split,
    images: ImageSource,
    texts: TextSource,
    captions: npt.NDArray[np.int64] | None = None,
    *,
    images_at_once: int = 50,
    progress: bool = False,
) -> Generator[EncodedPair, None, None]:
    """Captions of a split with their images, image by image; each image is encoded once.

    With ``progress``, close it where it may not be read to its end.

    Args:
        captions: positions of the wanted captions in the split; all of them by default.

    Raises:
        CrossAlignError: the regions of imported features without boxes; a photo that cannot be read; a model whose
            words and regions lie in no common space.
    """
    wanted = np.arange(len(split.texts)) if captions is None else np.sort(captions)
    wanted = wanted[np.argsort(split.image_of_text[wanted], kind="stable")]
    positions = np.unique(split.image_of_text[wanted])
    starts = range(0, len(positions), images_at_once)
    with tracked(starts, "encode", enabled=progress) as steps:
        for start in steps:
            part = positions[start : start + images_at_once]
            chosen = wanted[np.isin(split.image_of_text[wanted], part)]
            yield from encode_pairs(
                model,
                images(part),
                texts(chosen),
                np.searchsorted(part, split.image_of_text[chosen]),
                texts=[split.texts[caption] for caption in chosen],
                image_ids=[split.image_ids[split.image_of_text[caption]] for caption in chosen],
                caption_ids=[split.caption_ids[caption] for caption in chosen],
            )


@torch.inference_mode()
def encode_pairs(
    model: RetrievalModel,
    image_inputs: ImageInputs,
    text_inputs: TextInputs,
    image_of_text: Sequence[int] | npt.NDArray[np.int64],
    *,
    texts: Sequence[str],
    image_ids: Sequence[str],
    caption_ids: Sequence[str],
) -> list[EncodedPair]:
    """Encode captions and their images.

    Args:
        image_of_text: for each caption the row of its image.
        texts, image_ids, caption_ids: of each caption.

    Raises:
        CrossAlignError: the regions of imported features have no boxes, or the model is a cross-encoder.
    """
    if isinstance(model.config.scorer, CrossEncoderSettings):
        raise CrossAlignError(
            "this model is a cross-encoder (BLIP): it reads word by word next to the photo, and its words and regions "
            "lie in no common space; take a model with embeddings, or SCAN, SGR, SAF or SGRAF"
        )
    image_inputs, text_inputs = image_inputs.to(model.device), text_inputs.to(model.device)
    with evaluation_mode(model):
        boxes = model.image_tower.region_boxes(image_inputs).float().cpu()
        image, text = model.image_tower(image_inputs), model.text_tower(text_inputs)
        scores = model.pair_scores(image, text, torch.as_tensor(image_of_text, device=model.device)).cpu()
    regions, words, real = _unit_vectors(image), _unit_vectors(text), image.mask.cpu()
    pairs = []
    for row, at in enumerate(image_of_text):
        offsets = torch.tensor(model.text_tower.offsets(texts[row])).reshape(-1, 2)
        kept = real[at]
        pairs.append(
            EncodedPair(
                image_id=image_ids[row],
                caption_id=caption_ids[row],
                text=texts[row],
                similarity=float(scores[row]),
                regions={units: vectors[at][kept] for units, vectors in regions.items()},
                words={units: vectors[row, : len(offsets)] for units, vectors in words.items()},
                # An image without any region may have a padded unit and no box for it.
                boxes=boxes[at][kept[: boxes.shape[1]]],
                offsets=offsets,
            )
        )
    return pairs


def _unit_vectors(encoding: Encoding) -> dict[Units, Tensor]:
    return {
        "locals": F.normalize(encoding.locals.float(), dim=-1).cpu(),
        "context": F.normalize(encoding.context.float(), dim=-1).cpu(),
    }
