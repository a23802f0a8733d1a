"""What a model makes of photos and texts, in the space of both modalities and in that of each alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from crossalign.data.loading import ImageSource, TextSource
from crossalign.encode import packed_units
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.evaluation.gallery import EmbeddingGallery, ScoredGallery
from crossalign.evaluation.relevance import Scores, product_scores
from crossalign.model import RetrievalModel, evaluation_mode
from crossalign.progress import track
from crossalign.scorers.base import Scorer
from crossalign.scorers.blocks import PackedUnits, score_blocks, score_pairs

__all__ = ["EncodedPart", "embed_photos", "embed_texts", "embeds_alone", "encode_part"]

T = TypeVar("T")
_TEXTS, _PHOTOS = 256, 32


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
            seen, told = self.image.reshape(len(self.image), -1, self.image.shape[-1]), self.text
            # A run of pairs at a time: V D numbers a pair.
            parts = [
                torch.einsum("pvd,pd->pv", seen[some].double(), told[other].double()).amax(dim=1)
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
            return product_scores(self.image, self.text), product_scores(self.text, self.image)
        gallery = self.gallery()
        assert isinstance(gallery, ScoredGallery)
        matrix = score_blocks(gallery.scorer, gallery.images, gallery.texts, progress=self.progress)
        return (lambda part: matrix[part]), (lambda part: matrix[:, part].T)


def embeds_alone(model: RetrievalModel) -> bool:
    """Whether a model compares within one modality: it has embeddings, or heads of their own for that."""
    return model.config.scorer is None or getattr(model.config, "uni_modal_head", None) is not None


@torch.inference_mode()
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
    count = len(images.positions[0]) if images.stores else len(images.paths)
    order = np.argsort([len(text) for text in texts.texts], kind="stable")
    with evaluation_mode(model):
        seen = [
            _kept(
                model,
                model.image_tower(images(np.arange(start, min(start + batch_size, count))).to(model.device)),
            )
            for start in track(range(0, count, batch_size), "encode images", enabled=progress)
        ]
        told = [
            _kept(model, model.text_tower(texts(order[start : start + batch_size]).to(model.device)))
            for start in track(range(0, len(order), batch_size), "encode captions", enabled=progress)
        ]
    image, image_alone = _joined(seen)
    text, text_alone = _joined(told)
    place = torch.from_numpy(order).argsort()
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
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    chosen = [order[start : start + _TEXTS] for start in range(0, len(order), _TEXTS)]
    embeddings = _embedded(
        model,
        lambda part: model.text_tower(model.text_inputs([texts[index] for index in part])),
        chosen,
        "encode sentences" if progress else "",
    )
    result = torch.empty_like(embeddings)
    result[torch.tensor(order)] = embeddings
    return result


def embed_photos(model: RetrievalModel, paths: Sequence[Path], *, progress: bool = False) -> Tensor:
    """Photos ``(n, E)`` as they are compared with each other.

    Raises:
        CrossAlignError: a model of pairs without uni-modal heads, or one that takes imported features alone; a photo
            that cannot be read.
    """
    chosen = [paths[start : start + _PHOTOS] for start in range(0, len(paths), _PHOTOS)]
    return _embedded(
        model,
        lambda part: model.image_tower(model.image_inputs(part)),
        chosen,
        "encode photos" if progress else "",
    )


@torch.inference_mode()
def _embedded(
    model: RetrievalModel, encode: Callable[[Any], Encoding], parts: Sequence[Any], told: str
) -> Tensor:
    if not embeds_alone(model):
        model.require_embeddings()
    with evaluation_mode(model):
        found = [_alone(encode(part)) for part in track(parts, told, enabled=bool(told))]
    return torch.cat(found)


def _alone(encoding: Encoding) -> Tensor:
    """The uni-modal head's embedding, else the one for both modalities; its views one after the other."""
    embedding = encoding.embedding if encoding.unimodal is None else encoding.unimodal
    return embedding.flatten(1).float().cpu()


def _kept(model: RetrievalModel, encoding: Encoding) -> tuple[Tensor | PackedUnits, Tensor | None]:
    alone = _alone(encoding) if embeds_alone(model) else None
    return (encoding.embedding.float().cpu() if model.scorer is None else packed_units(encoding)), alone


def _joined(
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
