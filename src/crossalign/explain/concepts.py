"""What a codebook learned: how much each concept is used, and its most typical regions and words."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.evaluation.encoded_pairs import EncodedPair, Units
from crossalign.evaluation.region_match import Box, pointing_regions, span_vectors
from crossalign.evaluation.run_sources import run_recipe
from crossalign.explain.words import caption_words
from crossalign.training.checkpoint import load_checkpoint

__all__ = [
    "Codebook",
    "Concept",
    "ConceptCounter",
    "ConceptUse",
    "NoCodebookError",
    "TypicalRegion",
    "load_codebook",
]

_KEY = "objective.lca.codebook"


class NoCodebookError(CrossAlignError):
    """There is no codebook, for a reason that is no mistake."""


@dataclass(frozen=True)
class Codebook:
    """The concepts of a training run: ``vectors`` ``(K, D)`` of unit norm.

    Attributes:
        epoch: epochs after which they were saved; those of the run's last checkpoint.
        model_epoch: epochs after which the run's model was saved; the best ones on validation.
        units: what they were trained on.
    """

    vectors: Tensor
    epoch: int
    model_epoch: int
    units: Units = "locals"


def load_codebook(run: str | Path) -> Codebook:
    """The codebook of a training run, which is in its last checkpoint: a model folder does not need it.

    Raises:
        NoCodebookError: not the folder of a training run, or one without Local Concept Alignment.
        CrossAlignError: the checkpoint is damaged.
    """
    path = Path(run) / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise NoCodebookError(f"{run}: no training run with a checkpoint, and only there is a codebook")
    state = load_checkpoint(path)
    try:
        weights, counts = dict(state["weights"]), state["state"]
        epoch, model_epoch = int(counts["epoch"]), int(counts["best_epoch"])
    except (KeyError, TypeError, ValueError):
        raise CrossAlignError(f"{path}: not the checkpoint of a training run; train it again") from None
    if _KEY not in weights:
        raise NoCodebookError(f"{run}: trained without Local Concept Alignment, so it has no codebook")
    vectors = weights[_KEY]
    if not isinstance(vectors, Tensor) or vectors.dim() != 2 or not vectors.isfinite().all():
        raise CrossAlignError(f"{path}: its codebook is damaged; train it again")
    recipe = run_recipe(run)
    lca = None if recipe is None else recipe.objective.lca
    units: Units = "locals" if lca is None else lca.units
    return Codebook(F.normalize(vectors.float(), dim=1), epoch, model_epoch, units)


@dataclass(frozen=True)
class TypicalRegion:
    """A region that is like a concept: its image, its relative xyxy box, its cosine with the concept."""

    image_id: str
    box: Box
    similarity: float


@dataclass(frozen=True)
class Concept:
    """One concept.

    Attributes:
        index: its row in the codebook.
        region_share, word_share: of all regions and of all words, in percent, that are nearest to it.
        regions: the most similar ones of those, each of another image; where no region is nearest to it, of all.
        words: the most frequent ones of those, in lower case, with their counts.
        owns_regions: whether any region is nearest to it.
    """

    index: int
    region_share: float
    word_share: float
    regions: tuple[TypicalRegion, ...]
    words: tuple[tuple[str, int], ...]
    owns_regions: bool


@dataclass(frozen=True)
class ConceptUse:
    """How regions and words spread over the K concepts.

    Attributes:
        concepts: K.
        images, regions, words: how many were looked at; articles, prepositions and their like are no words here.
        used_by_regions, used_by_words: concepts that are the nearest one of any.
        region_perplexity, word_perplexity: exponential of the entropy of the shares: K when all are used alike.
        agreement: percent of words whose nearest concept is that of the region they chose; ``chance`` is what
            words and regions drawn by lot would reach.
        shown: the most used concepts, by the mean of both shares.
    """

    concepts: int
    images: int
    regions: int
    words: int
    used_by_regions: int
    used_by_words: int
    region_perplexity: float
    word_perplexity: float
    agreement: float
    chance: float
    shown: tuple[Concept, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class ConceptCounter:
    """Gives every region and every word of encoded pairs to its nearest concept.

    In training the regions of a batch are spread over the concepts alike (Sinkhorn-Knopp); here each one counts
    where it really is nearest, so a codebook that most regions pass by shows.

    Args:
        codebook: in the space of the pairs' units that it names.
    """

    def __init__(self, codebook: Codebook) -> None:
        self._vectors = codebook.vectors
        self._units: Units = codebook.units
        self._of_image: dict[str, npt.NDArray[np.int64]] = {}
        self._regions: list[tuple[int, TypicalRegion]] = []
        # Of every image, the best region for each concept: its cosine, and its place among all regions.
        self._best: list[tuple[Tensor, Tensor]] = []
        self._words: list[tuple[int, str]] = []
        self._agreements = 0

    def add(self, pair: EncodedPair) -> None:
        """Count a caption, and its image if it is new.

        Raises:
            CrossAlignError: the codebook is of another width than the regions.
        """
        kept = pointing_regions(pair.boxes)
        regions = pair.regions[self._units][kept]
        if regions.shape[1] != self._vectors.shape[1]:
            raise CrossAlignError(
                f"the codebook is {self._vectors.shape[1]} wide and the regions {regions.shape[1]}: "
                "it belongs to another model"
            )
        if pair.image_id not in self._of_image:
            cosines = regions @ self._vectors.T
            nearest = cosines.max(dim=1)
            if len(regions):
                best = cosines.max(dim=0)
                self._best.append((best.values, best.indices + len(self._regions)))
            self._of_image[pair.image_id] = nearest.indices.numpy()
            for concept, value, (a, b, c, d) in zip(
                nearest.indices.tolist(), nearest.values.tolist(), pair.boxes[kept].tolist(), strict=True
            ):
                self._regions.append((concept, TypicalRegion(pair.image_id, (a, b, c, d), value)))
        said = [word for word in caption_words(pair.text) if word.names]
        vectors, covered = span_vectors(pair.words[self._units], pair.offsets, said)
        if not len(regions) or not covered.any():
            return
        concepts = (vectors[covered] @ self._vectors.T).argmax(dim=1).numpy()
        chosen = (vectors[covered] @ regions.T).argmax(dim=1).numpy()
        self._agreements += int((concepts == self._of_image[pair.image_id][chosen]).sum())
        texts = [word.text.lower() for word, kept in zip(said, covered.tolist(), strict=True) if kept]
        self._words += zip(concepts.tolist(), texts, strict=True)

    def result(self, show: int, *, regions: int = 12, words: int = 8) -> ConceptUse:
        """What was counted, with the ``show`` most used concepts and so many regions and words of each.

        Raises:
            CrossAlignError: there was no region or no word.
        """
        if not self._regions or not self._words:
            raise CrossAlignError("concepts: no region or no word to give to them; choose another split")
        count = len(self._vectors)
        region_share, word_share = (
            np.bincount([concept for concept, _ in items], minlength=count) / len(items)
            for items in (self._regions, self._words)
        )
        order = np.argsort(-(region_share + word_share), kind="stable")
        used = order[(region_share + word_share)[order] > 0][:show].tolist()
        return ConceptUse(
            concepts=count,
            images=len(self._of_image),
            regions=len(self._regions),
            words=len(self._words),
            used_by_regions=int((region_share > 0).sum()),
            used_by_words=int((word_share > 0).sum()),
            region_perplexity=_perplexity(region_share),
            word_perplexity=_perplexity(word_share),
            agreement=100 * self._agreements / len(self._words),
            chance=100 * float(region_share @ word_share),
            shown=tuple(
                Concept(
                    index=concept,
                    region_share=100 * float(region_share[concept]),
                    word_share=100 * float(word_share[concept]),
                    regions=self._typical(concept, regions),
                    words=tuple(Counter(w for k, w in self._words if k == concept).most_common(words)),
                    owns_regions=bool(region_share[concept] > 0),
                )
                for concept in used
            ),
        )

    def _typical(self, concept: int, count: int) -> tuple[TypicalRegion, ...]:
        """The most similar regions of a concept, one an image: neighbouring cells show nearly the same."""
        mine = [region for nearest, region in self._regions if nearest == concept]
        if not mine:
            found = [(float(cosines[concept]), int(places[concept])) for cosines, places in self._best]
            mine = [
                replace(self._regions[place][1], similarity=cosine)
                for cosine, place in sorted(found)[-count:]
            ]
        best: dict[str, TypicalRegion] = {}
        for region in sorted(mine, key=lambda region: -region.similarity):
            best.setdefault(region.image_id, region)
        return tuple(best.values())[:count]


def _perplexity(shares: npt.NDArray[np.float64]) -> float:
    used = shares[shares > 0]
    return float(np.exp(-(used * np.log(used)).sum()))
