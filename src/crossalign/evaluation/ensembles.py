"""The mean of several models' similarities on one split, each model with inputs of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike

from crossalign.data.collection import Split
from crossalign.ensemble import Scale, ensemble_fingerprint, side_by_side
from crossalign.errors import CrossAlignError
from crossalign.evaluation.gallery import EmbeddingGallery, Gallery, Positions, ScoredGallery
from crossalign.evaluation.inputs import numpy_embeddings
from crossalign.evaluation.of_model import EncodedSplit, about_split, check_stores, encode_gallery
from crossalign.evaluation.ranks import Ranks
from crossalign.evaluation.results import Averaging, EnsembleMember
from crossalign.evaluation.score_ranks import ranks_of_scores
from crossalign.model import RetrievalModel
from crossalign.scorers.blocks import score_blocks
from crossalign.sources import Sources

__all__ = ["EnsembleGallery", "Member", "ensemble_gallery", "mean_gallery"]


@dataclass(frozen=True)
class Member:
    """A model of an ensemble and what it is given.

    Attributes:
        name: of the model, for the record.
    """

    model: RetrievalModel
    sources: Sources
    name: str


@dataclass(frozen=True)
class EnsembleGallery:
    """Images and texts that several models compare, each in its own way; scores of all pairs are averaged.

    All scores of one model exist at a time, beside their sum. With a standardised scale, each gallery has a mean and a
    standard deviation of its own: with folds, each fold.

    Raises:
        CrossAlignError: the galleries do not hold as many images and texts.
    """

    members: tuple[EmbeddingGallery | ScoredGallery, ...]
    scale: Scale

    def __post_init__(self) -> None:
        sizes = {member.size for member in self.members}
        if len(sizes) != 1:
            raise CrossAlignError(
                f"an ensemble's models have encoded {sorted(sizes)} images and texts, not the same"
            )

    def scores(self) -> np.ndarray:
        """Mean scores ``(B, C)``, float64: sums of few float32 scores have no ties of their own."""
        total = np.zeros(self.size)
        for member in self.members:
            values = _scores(member).astype(np.float64)
            if self.scale == "standardised":
                deviation = values.std()
                values -= values.mean()
                # A model that gives all pairs one score says nothing.
                values /= deviation if deviation > 0 else 1.0
            total += values
        return total / len(self.members)

    def ranks(self, image_of_text: ArrayLike) -> Ranks:
        return ranks_of_scores(self.scores(), image_of_text)

    def part(self, images: Positions, texts: Positions) -> EnsembleGallery:
        return EnsembleGallery(tuple(member.part(images, texts) for member in self.members), self.scale)

    @property
    def size(self) -> tuple[int, int]:
        return self.members[0].size


def _scores(gallery: EmbeddingGallery | ScoredGallery) -> np.ndarray:
    """Scores ``(B, C)`` of every image with every text."""
    if isinstance(gallery, ScoredGallery):
        scores = score_blocks(gallery.scorer, gallery.images, gallery.texts, progress=gallery.progress)
        return scores.cpu().numpy()
    image, text = (
        torch.as_tensor(numpy_embeddings(given)).float() for given in (gallery.image, gallery.text)
    )
    return RetrievalModel.similarity(image, text).numpy()


def mean_gallery(members: Sequence[EmbeddingGallery | ScoredGallery], scale: Scale) -> Gallery:
    """The gallery of several models' mean scores: one of embeddings side by side where it can be."""
    embedded = [member for member in members if isinstance(member, EmbeddingGallery)]
    if scale == "standardised" or len(embedded) < len(members):
        return EnsembleGallery(tuple(members), scale)
    return EmbeddingGallery(
        side_by_side([torch.as_tensor(numpy_embeddings(member.image)) for member in embedded]),
        side_by_side([torch.as_tensor(numpy_embeddings(member.text)) for member in embedded]),
    )


def ensemble_gallery(
    members: Sequence[Member], split: str, scale: Scale, *, progress: bool = False
) -> EncodedSplit:
    """Encode a split with every member, one after the other; what goes with its results names them all.

    Raises:
        CrossAlignError: no such split, members whose splits hold other images or captions, and what
            :func:`~crossalign.evaluation.of_model.evaluate_model` refuses of each member, whose name is told.
    """
    first: Split | None = None
    galleries: list[EmbeddingGallery | ScoredGallery] = []
    for member in members:
        try:
            check_stores(member.model, member.sources)
        except CrossAlignError as error:
            raise CrossAlignError(f"{member.name}: {error}") from None
    for member in members:
        part, images, texts = member.sources.split(member.model, split)
        if first is None:
            first = part
        elif (list(part.image_ids), list(part.caption_ids)) != (
            list(first.image_ids),
            list(first.caption_ids),
        ):
            raise CrossAlignError(
                f"{member.name}: split '{split}' of {member.sources.collection.folder} is not that of "
                f"{members[0].sources.collection.folder}; name one collection for all (--collection)"
            )
        galleries.append(encode_gallery(member.model, images, texts, progress=progress))
    assert first is not None
    record = tuple(EnsembleMember(model=member.model.fingerprint, name=member.name) for member in members)
    about = replace(
        about_split(members[0].model, members[0].sources, first),
        model=ensemble_fingerprint([member.model for member in record], scale),
        ensemble=Averaging(scale=scale, members=record),
    )
    return EncodedSplit(first, mean_gallery(galleries, scale), about)
