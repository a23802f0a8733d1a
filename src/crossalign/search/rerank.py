"""Re-ranking: a model that looks at words and regions together puts the best photos of a search into its order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from crossalign.devices import usable_device
from crossalign.encode import packed_units
from crossalign.errors import CrossAlignError
from crossalign.model import RetrievalModel, evaluation_mode
from crossalign.progress import tracked
from crossalign.scorers.blocks import PackedUnits, score_blocks
from crossalign.search.hit import Hit
from crossalign.search.models import PhotoScorer
from crossalign.search.reading import PIXELS_AT_ONCE, Reading, read_ahead
from crossalign.search.scan import Failure, FileState
from crossalign.search.unit_cache import UnitCache

__all__ = ["PhotoReranker", "reranked"]

_CACHE_BYTES = 2**28
"""Room for 1,800 photos of 36 regions, 1024 wide."""


class PhotoReranker:
    """A model that scores words with the regions of photos, and the regions of the photos it saw lately.

    A photo is encoded when it is first asked for, and again when its file has changed. Keep the re-ranker for many
    searches: what is in its cache costs next to nothing.

    Args:
        model: one with a scorer, which encodes raw photos.
        batch_size: photos encoded at a time.
        cache_bytes: regions kept at most.

    Raises:
        CrossAlignError: the model compares embeddings, or cannot encode raw photos.

    Example:
        >>> reranker = PhotoReranker.open("runs/flickr8k-scan")
        >>> scores = reranker.scores("two dogs in the snow", [Path("snow.jpg"), Path("beach.jpg")])
    """

    def __init__(
        self, model: RetrievalModel, *, batch_size: int = 16, cache_bytes: int = _CACHE_BYTES
    ) -> None:
        if model.scorer is None:
            raise CrossAlignError(
                "re-ranking needs a model with a scorer (model.scorer in its recipe); this one compares "
                "embeddings; search with it in an index of its own (crossalign index)"
            )
        if batch_size < 1:
            raise CrossAlignError(f"batch_size is {batch_size}; give a positive number")
        # One that cannot take photos says so now, not in the middle of a search.
        model.image_inputs([Image.new("RGB", (64, 64))])
        self.model = model
        self._scorer = model.scorer
        self._batch_size = batch_size
        self._cache = UnitCache(cache_bytes)

    @classmethod
    def open(
        cls, model: str | Path, device: str = "auto", *, batch_size: int = 16, cache_bytes: int = _CACHE_BYTES
    ) -> PhotoReranker:
        """The re-ranker of a model folder, a training run or a Hub name.

        Args:
            device: where it runs; ``auto`` takes an accelerator where there is one.

        Raises:
            CrossAlignError: nothing that can be loaded is there, or it cannot re-rank photos.
        """
        loaded = RetrievalModel.from_pretrained(model, usable_device(device))
        try:
            return cls(loaded, batch_size=batch_size, cache_bytes=cache_bytes)
        except CrossAlignError as error:
            raise CrossAlignError(f"{model}: {error}") from None

    def scores(self, text: str, photos: Sequence[Path], progress: bool = False) -> list[float | Failure]:
        """How well a text fits each photo, or why that photo cannot be read.

        Args:
            progress: show a bar while photos are encoded.

        Raises:
            CrossAlignError: the text is empty, or the scores are not finite.
        """
        if not text.strip():
            raise CrossAlignError("the query is empty; give some words")
        found = self._regions(photos, progress)
        seen = [regions for regions in found if not isinstance(regions, Failure)]
        values = iter(self._score(text, seen) if seen else [])
        return [regions if isinstance(regions, Failure) else next(values) for regions in found]

    def _score(self, text: str, regions: Sequence[Tensor]) -> list[float]:
        lengths = torch.tensor([len(units) for units in regions])
        with torch.inference_mode(), evaluation_mode(self.model):
            words = packed_units(self.model.text_tower(self.model.text_inputs([text])))
        scores = score_blocks(self._scorer, PackedUnits(torch.cat(list(regions)), lengths), words)[:, 0]
        if not bool(scores.isfinite().all()):
            raise CrossAlignError(
                "the re-ranking model's scores are not finite: its training has diverged; train it again"
            )
        return [float(score) for score in scores]

    def _regions(self, photos: Sequence[Path], progress: bool) -> list[Tensor | Failure]:
        """The regions ``(R, D)`` of each photo, from the cache or from the model."""
        known = {photo: self._cache.get(photo) for photo in photos}
        found: dict[Path, Tensor | Failure] = {
            photo: units for photo, units in known.items() if units is not None
        }
        unknown = [str(photo) for photo, units in known.items() if units is None]
        batch: list[tuple[Reading, Image.Image]] = []
        readings = read_ahead(Path(), unknown)
        shown = progress and bool(unknown)
        with tracked(readings, "encode photos", total=len(unknown), enabled=shown) as steps:
            for reading in steps:
                if reading.image is None:
                    found[Path(reading.file)] = Failure(reading.file, reading.problem or "")
                    continue
                batch.append((reading, reading.image))
                pixels = sum(image.width * image.height for _, image in batch)
                if len(batch) >= self._batch_size or pixels >= PIXELS_AT_ONCE:
                    found |= self._encode(batch)
                    batch = []
        found |= self._encode(batch)
        return [found[photo] for photo in photos]

    def _encode(self, batch: Sequence[tuple[Reading, Image.Image]]) -> dict[Path, Tensor]:
        """Regions of photos just read, which the cache keeps."""
        if not batch:
            return {}
        with torch.inference_mode(), evaluation_mode(self.model):
            inputs = self.model.image_inputs([image for _, image in batch])
            packed = packed_units(self.model.image_tower(inputs))
        found = {}
        for (reading, _), units in zip(batch, packed.units.split(packed.lengths.tolist()), strict=True):
            found[Path(reading.file)] = units
            # Without a time that can be trusted, no later search could tell that the file is the same.
            if reading.mtime_ns:
                self._cache.put(Path(reading.file), FileState(reading.size, reading.mtime_ns), units)
        return found


def reranked(hits: Sequence[Hit], text: str, scorer: PhotoScorer, progress: bool = False) -> list[Hit]:
    """Hits of a search in a scorer's order, best first; equal ones stay as they were.

    Photos that the scorer cannot read come last, in the order they had; their ``problem`` says why.

    Args:
        hits: best first.
        text: words of the query.
        scorer: such as a :class:`PhotoReranker`.
        progress: show a bar while photos are encoded.

    Raises:
        CrossAlignError: what the scorer raises, such as of an empty text.
    """
    seen, unseen = [], []
    for hit, result in zip(hits, scorer.scores(text, [hit.path for hit in hits], progress), strict=True):
        if isinstance(result, Failure):
            unseen.append(replace(hit, score=math.nan, first_score=hit.score, problem=result.reason))
        else:
            seen.append(replace(hit, score=result, first_score=hit.score))
    ordered = sorted(seen, key=lambda hit: -hit.score) + unseen
    return [replace(hit, rank=rank) for rank, hit in enumerate(ordered, start=1)]
