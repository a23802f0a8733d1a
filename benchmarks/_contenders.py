"""What is timed against each other: models with the test split as they see it, and galleries made larger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.errors import CrossAlignError
from crossalign.evaluation.gallery import (
    EmbeddingGallery,
    Gallery,
    RerankedGallery,
    ScoredGallery,
    gallery_table,
)
from crossalign.evaluation.of_model import check_stores, encode_gallery
from crossalign.evaluation.run_sources import run_sources
from crossalign.model import RetrievalModel, evaluation_mode
from crossalign.scorers import PackedUnits, SCANScorer, Scorer, SGRAFScorer

__all__ = ["Contender", "grown", "grown_units", "made_up_contenders", "rsum", "trained"]


@dataclass(frozen=True)
class Contender:
    """A model with a split of images and captions as it sees them.

    Attributes:
        label: what pictures and tables call it.
        gallery: the split's embeddings, or its units with the scorer.
        split: images and captions of the split, by id; none for random weights.
        owner: each caption's image.
        fingerprint: of the model; none for random weights.
        encode: what a query's words go through before anything is searched; none for random weights.
        texts: the captions.
    """

    label: str
    gallery: EmbeddingGallery | ScoredGallery
    split: tuple[list[str], list[str]] | None = None
    owner: Any = None
    fingerprint: str | None = None
    encode: Callable[[str], object] | None = None
    texts: tuple[str, ...] = ()


def trained(name: str, collection: str | None) -> Contender:
    """A training run as ``RUN`` or ``LABEL=RUN`` on its collection's test split, or on another collection's.

    Raises:
        CrossAlignError: nothing is there, or its data is not.
    """
    label, equals, run = name.partition("=")
    run = run if equals else name
    model = RetrievalModel.from_pretrained(run)
    sources = run_sources(run, collection)
    check_stores(model, sources)
    part, images, texts = sources.split(model, "test")

    @torch.inference_mode()
    def encode(text: str) -> object:
        with evaluation_mode(model):
            return model.text_tower(model.text_inputs([text]))

    return Contender(
        label if equals else run.rstrip("/").rpartition("/")[2],
        encode_gallery(model, images, texts),
        (list(part.image_ids), list(part.caption_ids)),
        part.image_of_text,
        model.fingerprint,
        encode,
        tuple(part.texts),
    )


def rsum(contender: Contender, by: Contender | None = None, top: int = 50) -> float | None:
    """R@sum on the split, after ``by`` has re-ranked the best ``top`` where it is given; none for random weights."""
    if contender.split is None:
        return None
    gallery: Gallery = contender.gallery
    if by is not None:
        assert isinstance(contender.gallery, EmbeddingGallery)
        assert isinstance(by.gallery, ScoredGallery)
        if by.split != contender.split:
            raise CrossAlignError(
                f"{by.label} and {contender.label} have other test splits; name one with --collection"
            )
        gallery = RerankedGallery(contender.gallery, by.gallery, top)
    return gallery_table(gallery, contender.owner).metrics()["rsum"]


def made_up_contenders(
    images: int, texts: int, regions: int, words: int, dim: int, similarity_dim: int
) -> tuple[list[Contender], list[Contender]]:
    """One independent model, and SCAN and SGRAF of random weights on random units: they have times alone."""
    generator = torch.Generator().manual_seed(0)

    def units(count: int, most: int) -> Tensor:
        shared = torch.randn(count, 1, dim, generator=generator)
        return F.normalize(torch.randn(count, most, dim, generator=generator) + shared, dim=-1)

    seen, told = units(images, regions), units(texts, words)
    lengths = torch.randint(max(1, words // 3), words + 1, (texts, 1), generator=generator)
    packed = PackedUnits.of(seen), PackedUnits.of(told, torch.arange(words) < lengths)
    fast = EmbeddingGallery(F.normalize(seen.mean(dim=1), dim=-1), F.normalize(told.mean(dim=1), dim=-1))
    torch.manual_seed(0)
    scorers: dict[str, Scorer[Any]] = {
        "SCAN": SCANScorer(),
        "SGRAF": SGRAFScorer(dim, similarity_dim, regions=regions).eval(),
    }
    return [Contender("VSE", fast)], [
        Contender(label, ScoredGallery(scorer, *packed)) for label, scorer in scorers.items()
    ]


def grown(values: Tensor, count: int, noise: float) -> Tensor:
    """Vectors ``(n, ..., D)`` repeated to ``(count, ..., D)``: the first n as they are, each further one turned by
    noise of ``noise`` times its norm; norms stay."""
    generator = torch.Generator().manual_seed(0)
    result = torch.empty(count, *values.shape[1:])
    for start in range(0, count, len(values)):
        part = values[: count - start].float()
        if start:
            norms = torch.linalg.vector_norm(part, dim=-1, keepdim=True)
            moved = torch.randn(part.shape, generator=generator).mul_(noise / part.shape[-1] ** 0.5)
            part = F.normalize(moved.mul_(norms).add_(part), dim=-1).mul_(norms)
        result[start : start + len(part)] = part
    return result


def grown_units(units: PackedUnits, count: int, noise: float) -> tuple[Tensor, Tensor | None]:
    """Units of n items repeated to ``(count, N, D)`` as :func:`grown` does, and their mask."""
    padded, mask = units.padded(torch.arange(min(len(units), count)))
    if mask is not None:
        padded = padded.masked_fill(~mask.unsqueeze(2), 0.0)
        mask = mask.repeat(-(-count // len(mask)), 1)[:count]
    return grown(padded, count, noise), mask
