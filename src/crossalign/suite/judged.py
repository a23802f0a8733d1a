"""People's ratings of captions on photos, against what a model says of the pairs and of what belongs to either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from crossalign.suite.judgements import Judgements, judgement_correlation, rated_pairs
from crossalign.suite.lookup import Lookup
from crossalign.suite.needs import LeftOutError, encode_judged, need_photos, pair_cosines
from crossalign.suite.result import Measure
from crossalign.suite.spaces import EncodedPart
from crossalign.suite.subject import Subject

__all__ = ["JudgedPairs"]


class JudgedPairs:
    """All pairs that were judged; their photos and captions are encoded once, when first asked for.

    A caption was written for a photo of its own. So its rating on another photo also tells how alike the two photos
    are, and how alike it is to the other photo's captions: of a model that compares within a modality these are
    measured, too, over the pairs whose caption was written for another photo.

    Args:
        lookup: of the collection; None without one.
        judgements: by experts, by the crowd, or both.
    """

    def __init__(
        self,
        subject: Subject,
        lookup: Lookup | None,
        judgements: Sequence[Judgements],
        progress: bool = False,
    ) -> None:
        self._subject = subject
        self._lookup = lookup
        self._judgements = tuple(judgements)
        self._progress = progress

    def measure(self, judgements: Judgements) -> Measure:
        """Kendall's tau with one of the files of judgements.

        Raises:
            LeftOutError: the model knows no photos, or the collection lacks what was judged.
        """
        need_photos(self._subject)
        if (lacking := self._lacking(judgements)) is not None:
            raise LeftOutError(lacking)
        part, photo_row, caption_row = self._encoded
        photo, caption = _rows(photo_row, judgements.images), _rows(caption_row, judgements.captions)
        assert self._lookup is not None
        place_of = self._lookup.caption_of_place
        texts = {place: self._lookup.text[caption_id] for place, caption_id in place_of.items()}
        rated = rated_pairs(judgements, texts)
        asked = {"tau": ("photo and caption", part.pair_scores(photo, caption), rated)}
        if part.image_alone is not None and part.text_alone is not None:
            foreign = rated & (np.array(judgements.images) != np.array(judgements.owners))
            told = np.array([photo in self._captions_of for photo in judgements.images])
            photos = pair_cosines(part.image_alone, photo, _rows(photo_row, judgements.owners))
            asked["photo_tau"] = ("photo and the caption's photo", photos, foreign)
            captions = self._to_captions(judgements, part.text_alone, caption, caption_row)
            asked["caption_tau"] = ("caption and the photo's captions, mean", captions, foreign & told)
        metrics, rows, counts = {}, [], {}
        for key, (pair, similarity, kept) in asked.items():
            if key != "tau" and kept.sum() < 2:
                # Where all captions are the photos' own, nothing tells how alike two photos are.
                continue
            metrics[key], counts[key] = judgement_correlation(judgements, similarity, kept)
            rows.append((pair, f"{metrics[key]:.2f}", f"{counts[key]:,}", f"{int(kept.sum()):,}"))
        return Measure(
            f"judgements_{judgements.name}",
            judgements.title,
            metrics,
            ("similarity of", f"Kendall's tau-{judgements.variant}", "judgements", "pairs"),
            tuple(rows),
            "Correlation with people's ratings of captions on photos, in percent.",
            {"variant": judgements.variant, "judgements": counts},
        )

    def _lacking(self, judgements: Judgements) -> str | None:
        """Why these judgements cannot be measured, as far as the collection tells."""
        if self._lookup is None:
            return "the files name photos and captions of Flickr8k; no collection is named (--collection)"
        for name, wanted, known in (
            ("photos", set(judgements.images), self._lookup.image_of_file),
            ("captions", set(judgements.captions), self._lookup.caption_of_place),
        ):
            found = len(wanted & known.keys())
            if found < len(wanted):
                return f"the collection has {found:,} of the {len(wanted):,} {name} that are judged"
        return None

    @cached_property
    def _encoded(self) -> tuple[EncodedPart, dict[str, int], dict[str, int]]:
        """What can be measured, with the row of each photo by its file and of each caption by ``FILE#NUMBER``."""
        assert self._lookup is not None
        photos: set[str] = set()
        captions: set[str] = set()
        for entry in self._judgements:
            if self._lacking(entry) is None:
                photos.update(entry.images)
                captions.update(entry.captions)
                if self._subject.compares_texts:
                    photos.update(entry.owners)
                    captions.update(*(self._captions_of.get(photo, ()) for photo in entry.images))
        files, places = sorted(photos), sorted(captions)
        part = encode_judged(
            self._subject,
            self._lookup,
            [self._lookup.image_of_file[file] for file in files],
            [self._lookup.caption_of_place[place] for place in places],
            self._progress,
        )
        return part, _numbered(files), _numbered(places)

    @cached_property
    def _captions_of(self) -> dict[str, list[str]]:
        """The captions written for each photo, as ``FILE#NUMBER``."""
        assert self._lookup is not None
        found: dict[str, list[str]] = {}
        for place in self._lookup.caption_of_place:
            found.setdefault(place.rpartition("#")[0], []).append(place)
        return found

    def _to_captions(
        self,
        judgements: Judgements,
        embeddings: torch.Tensor,
        caption: npt.NDArray[np.int64],
        row: Mapping[str, int],
    ) -> npt.NDArray[np.float64]:
        """Mean cosine ``(p,)`` of each pair's caption with the captions of its photo; 0 where that has none."""
        own = [_rows(row, self._captions_of.get(photo, ())) for photo in judgements.images]
        counts = np.array([len(rows) for rows in own])
        cosines = pair_cosines(embeddings, np.repeat(caption, counts), np.concatenate(own))
        sums = np.bincount(np.repeat(np.arange(len(own)), counts), cosines, minlength=len(own))
        mean: npt.NDArray[np.float64] = sums / counts.clip(min=1)
        return mean


def _rows(row: Mapping[str, int], names: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.array([row[name] for name in names], np.int64)


def _numbered(names: Sequence[str]) -> dict[str, int]:
    return {name: position for position, name in enumerate(names)}
