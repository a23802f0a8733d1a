"""What a codebook learned: how much each concept is used, and its most typical regions and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.evaluation.encoded_pairs import EncodedPair, Units
from crossalign.evaluation.region_match import Box, pointing_regions, span_vectors
from crossalign.evaluation.run_sources import run_recipe
from crossalign.explain.words import caption_words
from crossalign.normalization import unit_norm
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
        centred: whether on what those lack of their mean.
    """

    vectors: Tensor
    epoch: int
    model_epoch: int
    units: Units = "locals"
    centred: bool = False


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
    codebook = Codebook(F.normalize(vectors.float(), dim=1), epoch, model_epoch)
    return codebook if lca is None else replace(codebook, units=lca.units, centred=lca.centred)


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

    Vectors are kept until the end, as centring needs the mean of all: 4 bytes times width for each region and word.

    Args:
        codebook: in the space of the pairs' units that it names.
    """

    def __init__(self, codebook: Codebook) -> None:
        self._codebook = codebook
        self._images: dict[str, _Regions] = {}
        self._captions: list[_Words] = []
        self._region_mean, self._word_mean = _Mean(), _Mean()

    def add(self, pair: EncodedPair) -> None:
        """Count a caption, and its image if it is new.

        Raises:
            CrossAlignError: the codebook is of another width than the regions.
        """
        units, width = self._codebook.units, self._codebook.vectors.shape[1]
        kept = pointing_regions(pair.boxes)
        regions = pair.regions[units][kept]
        if regions.shape[1] != width:
            raise CrossAlignError(
                f"the codebook is {width} wide and the regions {regions.shape[1]}: it belongs to another model"
            )
        if pair.image_id not in self._images:
            boxes = [(a, b, c, d) for a, b, c, d in pair.boxes[kept].tolist()]
            self._images[pair.image_id] = _Regions(regions, boxes)
            self._region_mean.add(pair.regions[units])
        self._word_mean.add(pair.words[units])
        said = [word for word in caption_words(pair.text) if word.names]
        vectors, covered = span_vectors(pair.words[units], pair.offsets, said)
        if not len(regions) or not covered.any():
            return
        texts = [word.text.lower() for word, kept in zip(said, covered.tolist(), strict=True) if kept]
        self._captions.append(_Words(pair.image_id, vectors[covered], texts))

    def result(self, show: int, *, regions: int = 12, words: int = 8) -> ConceptUse:
        """What was counted, with the ``show`` most used concepts and so many regions and words of each.

        Raises:
            CrossAlignError: there was no region or no word.
        """
        if not any(len(image.boxes) for image in self._images.values()) or not self._captions:
            raise CrossAlignError("concepts: no region or no word to give to them; choose another split")
        concepts_of = self._codebook.vectors.T
        regions_of = {
            image_id: self._compared(image.vectors, self._region_mean)
            for image_id, image in self._images.items()
        }
        of_image = {image_id: vectors @ concepts_of for image_id, vectors in regions_of.items()}
        nearest = {image_id: cosines.argmax(dim=1) for image_id, cosines in of_image.items()}
        said: list[tuple[int, str]] = []
        agreements = 0
        for caption in self._captions:
            vectors = self._compared(caption.vectors, self._word_mean)
            concepts = (vectors @ concepts_of).argmax(dim=1)
            chosen = (vectors @ regions_of[caption.image_id].T).argmax(dim=1)
            agreements += int((concepts == nearest[caption.image_id][chosen]).sum())
            said += zip(concepts.tolist(), caption.texts, strict=True)
        count = len(self._codebook.vectors)
        owners = torch.cat(list(nearest.values())).tolist()
        region_share, word_share = (
            np.bincount(items, minlength=count) / len(items)
            for items in (owners, [concept for concept, _ in said])
        )
        order = np.argsort(-(region_share + word_share), kind="stable")
        used = order[(region_share + word_share)[order] > 0][:show].tolist()
        return ConceptUse(
            concepts=count,
            images=len(self._images),
            regions=len(owners),
            words=len(said),
            used_by_regions=int((region_share > 0).sum()),
            used_by_words=int((word_share > 0).sum()),
            region_perplexity=_perplexity(region_share),
            word_perplexity=_perplexity(word_share),
            agreement=100 * agreements / len(said),
            chance=100 * float(region_share @ word_share),
            shown=tuple(
                Concept(
                    index=concept,
                    region_share=100 * float(region_share[concept]),
                    word_share=100 * float(word_share[concept]),
                    regions=self._typical(concept, of_image, nearest, regions),
                    words=tuple(Counter(w for k, w in said if k == concept).most_common(words)),
                    owns_regions=bool(region_share[concept] > 0),
                )
                for concept in used
            ),
        )

    def _compared(self, vectors: Tensor, mean: _Mean) -> Tensor:
        """Units ``(n, D)`` as Local Concept Alignment compares them with each other and with concepts."""
        return unit_norm(vectors - mean.value()) if self._codebook.centred else vectors

    def _typical(
        self, concept: int, of_image: Mapping[str, Tensor], nearest: Mapping[str, Tensor], count: int
    ) -> tuple[TypicalRegion, ...]:
        """The most similar regions of a concept, one an image: neighbouring cells show nearly the same."""
        best: dict[bool, list[TypicalRegion]] = {True: [], False: []}
        for image_id, cosines in of_image.items():
            own = nearest[image_id] == concept
            for owned, among in ((True, own), (False, torch.ones_like(own))):
                if among.any():
                    place = int(cosines[:, concept].masked_fill(~among, -torch.inf).argmax())
                    box = self._images[image_id].boxes[place]
                    best[owned].append(TypicalRegion(image_id, box, float(cosines[place, concept])))
        # Where no region is nearest to the concept, those that come closest.
        found = best[True] or best[False]
        return tuple(sorted(found, key=lambda region: -region.similarity)[:count])


@dataclass(frozen=True)
class _Regions:
    """Those of an image that a word can choose: unit vectors ``(R, D)`` and their boxes."""

    vectors: Tensor
    boxes: list[Box]


@dataclass(frozen=True)
class _Words:
    """The n words of a caption that name something: unit vectors ``(n, D)``."""

    image_id: str
    vectors: Tensor
    texts: list[str]


class _Mean:
    """Of all units of one modality that were looked at; training takes that of each batch."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, units: Tensor) -> None:
        total = units.double().sum(dim=0)
        self._sum = total if self._sum is None else self._sum + total
        self._count += len(units)

    def value(self) -> Tensor:
        assert self._sum is not None
        return (self._sum / self._count).float()


def _perplexity(shares: npt.NDArray[np.float64]) -> float:
    used = shares[shares > 0]
    return float(np.exp(-(used * np.log(used)).sum()))
