"""What a model makes of photos and texts, in the space of both modalities and in that of each alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossalign.data.loading import ImageSource, TextSource
from crossalign.encode import encode_each, packed_units
from crossalign.encoding import Encoding, Space
from crossalign.errors import CrossAlignError
from crossalign.evaluation.gallery import EmbeddingGallery, ScoredGallery
from crossalign.evaluation.relevance import Scores, products_in_blocks
from crossalign.model import RetrievalModel, embedding_in
from crossalign.scorers.base import Scorer
from crossalign.scorers.blocks import PackedUnits, score_blocks, score_pairs

__all__ = [
    "EncodedPart",
    "embed_photos",
    "embed_texts",
    "embedding_alone",
    "embeds_alone",
    "encode_part",
    "own_space",
]


@dataclass(frozen=True, eq=False)
class EncodedPart:
    """Images and texts as a model compares them, in their order, float32 on the CPU.

    Attributes:
        image, text: what images and texts are compared with each other by: embeddings ``(n, D)`` or ``(n, V, D)`` and
            ``(m, D)``, or the units that a scorer sees.
        image_alone, text_alone: ``(n, E)`` and ``(m, E)``, what images are compared with images and texts with texts
            by, through their cosine; None for a model of pairs without uni-modal heads.
    """

    image: Tensor | PackedUnits
    text: Tensor | PackedUnits
    image_alone: Tensor | None
    text_alone: Tensor | None
    scorer: Scorer[Any] | None = None
    progress: bool = False

    def gallery(self) -> EmbeddingGallery | ScoredGallery:
        """For recall in both directions."""
        if isinstance(self.image, Tensor) and isinstance(self.text, Tensor):
            return EmbeddingGallery(self.image, self.text)
        assert isinstance(self.image, PackedUnits)
        assert isinstance(self.text, PackedUnits)
        assert self.scorer is not None
        return ScoredGallery(self.scorer, self.image, self.text, self.progress)

    def pair_scores(self, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        """Scores ``(p,)`` of pairs given by positions."""
        rows, columns = torch.from_numpy(image), torch.from_numpy(text)
        if isinstance(self.image, Tensor) and isinstance(self.text, Tensor):
            # A run of pairs at a time: V D numbers a pair.
            parts = [
                RetrievalModel.pair_similarity(self.image[some].double(), self.text[other].double())
                for some, other in zip(rows.split(4096), columns.split(4096), strict=True)
            ]
            return torch.cat(parts).numpy()
        gallery = self.gallery()
        assert isinstance(gallery, ScoredGallery)
        scores: np.ndarray = score_pairs(
            gallery.scorer, gallery.images, gallery.texts, rows, columns, progress=self.progress
        ).numpy()
        return scores

    def all_scores(self) -> tuple[Scores, Scores]:
        """Scores of runs of images with all texts, and of runs of texts with all images."""
        if isinstance(self.image, Tensor) and isinstance(self.text, Tensor):
            return products_in_blocks(self.image, self.text), products_in_blocks(self.text, self.image)
        gallery = self.gallery()
        assert isinstance(gallery, ScoredGallery)
        matrix = score_blocks(gallery.scorer, gallery.images, gallery.texts, progress=self.progress)
        return (lambda part: matrix[part]), (lambda part: matrix[:, part].T)


def embeds_alone(model: RetrievalModel) -> bool:
    """Whether a model compares within one modality: it has embeddings, or heads of their own for that."""
    return model.config.scorer is None or model.config.uni_modal_head is not None


def encode_part(
    model: RetrievalModel,
    images: ImageSource,
    texts: TextSource,
    *,
    batch_size: int = 256,
    progress: bool = False,
) -> EncodedPart:
    """Encode images and captions once, for every measure on them.

    Raises:
        CrossAlignError: a photo that cannot be read.
    """
    seen, told, order = encode_each(
        model, images, texts, lambda batch: _kept(model, batch), batch_size, progress
    )
    image, image_alone = _all_rows(seen)
    text, text_alone = _all_rows(told)
    place = order.argsort()
    return EncodedPart(
        image,
        text[place] if isinstance(text, Tensor) else text.reordered(place),
        image_alone,
        None if text_alone is None else text_alone[place],
        model.scorer,
        progress,
    )


def embed_texts(model: RetrievalModel, texts: Sequence[str], *, progress: bool = False) -> Tensor:
    """Texts ``(n, E)`` as they are compared with each other.

    Raises:
        CrossAlignError: a model of pairs without uni-modal heads.
    """
    return model.encode_texts(texts, progress=progress, space=own_space(model)).flatten(1)


def embed_photos(model: RetrievalModel, paths: Sequence[Path], *, progress: bool = False) -> Tensor:
    """Photos ``(n, E)`` as they are compared with each other.

    Raises:
        CrossAlignError: a model of pairs without uni-modal heads, or one that takes imported features alone; a photo
            that cannot be read.
    """
    return model.encode_images(paths, progress=progress, space=own_space(model)).flatten(1)


def own_space(model: RetrievalModel) -> Space:
    """In which a modality is compared with itself: that of the uni-modal heads, else that of both modalities."""
    return "cross" if model.config.uni_modal_head is None else "uni"


def embedding_alone(model: RetrievalModel, encoding: Encoding) -> Tensor:
    """What a modality is compared with itself by; views one after the other."""
    return embedding_in(encoding, own_space(model)).flatten(1).float().cpu()


def _kept(model: RetrievalModel, encoding: Encoding) -> tuple[Tensor | PackedUnits, Tensor | None]:
    alone = embedding_alone(model, encoding) if embeds_alone(model) else None
    return (encoding.embedding.float().cpu() if model.scorer is None else packed_units(encoding)), alone


def _all_rows(
    parts: Sequence[tuple[Tensor | PackedUnits, Tensor | None]],
) -> tuple[Tensor | PackedUnits, Tensor | None]:
    if not parts:
        raise CrossAlignError("nothing to encode; check the ids")
    both = [part[0] for part in parts]
    alone = [part[1] for part in parts if part[1] is not None]
    joined: Tensor | PackedUnits
    if isinstance(both[0], Tensor):
        joined = torch.cat([part for part in both if isinstance(part, Tensor)])
    else:
        joined = PackedUnits.cat([part for part in both if isinstance(part, PackedUnits)])
    return joined, torch.cat(alone) if alone else None
