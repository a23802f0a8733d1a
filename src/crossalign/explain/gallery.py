"""A gallery of a collection: explained pairs, and what each concept of the codebook is about."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from crossalign.data.collection import Collection, Split
from crossalign.data.photos import open_photo
from crossalign.drawing import save_picture
from crossalign.errors import CrossAlignError
from crossalign.evaluation.encoded_pairs import UNITS_SAID, Units, encoded_pairs
from crossalign.evaluation.grounding import GroundingResult
from crossalign.explain.concepts import Codebook, ConceptCounter, ConceptUse
from crossalign.explain.correspondence import Correspondence, correspond
from crossalign.explain.gallery_page import GalleryPage, ShownPair, render_gallery
from crossalign.explain.marks import filled_square, pixel_box
from crossalign.explain.overlay import draw_correspondence
from crossalign.files import write_json, write_text
from crossalign.folders import atomic_folder
from crossalign.model import RetrievalModel
from crossalign.progress import tracked
from crossalign.sources import Sources

__all__ = ["GallerySettings", "check_gallery_folder", "write_gallery"]

SUMMARY = "gallery.json"
_CROP = 144


@dataclass(frozen=True)
class GallerySettings:
    """What a gallery shows.

    Attributes:
        pairs: explained pairs, each of another image.
        concepts: the most used ones are shown.
        images: the concepts are judged by the regions and captions of so many images.
        top: word-region pairs of each explained pair.
        units: what is compared in the explained pairs; concepts are of those they were trained on.
        all_words: articles, prepositions and their like count among the pairs, too.
        seed: of the draw.
    """

    pairs: int = 12
    concepts: int = 24
    images: int = 1000
    top: int = 5
    units: Units = "locals"
    all_words: bool = False
    seed: int = 0


@dataclass
class _Gathered:
    """What one pass over the encoded pairs leaves."""

    pairs: list[tuple[str, str, Correspondence]] = field(default_factory=list)
    concepts: ConceptUse | None = None


def check_gallery_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a place that is taken, before anything is computed; never replace what no gallery has made.

    Raises:
        CrossAlignError: the folder exists, and it is no gallery or ``overwrite`` is false.
    """
    if not folder.exists():
        return
    if not (folder / SUMMARY).is_file():
        raise CrossAlignError(f"{folder}: exists and is no gallery; choose another place (--out)")
    if not overwrite:
        raise CrossAlignError(
            f"{folder}: holds an earlier gallery; replace it with --overwrite, or choose another place (--out)"
        )


def write_gallery(
    folder: str | Path,
    model: RetrievalModel,
    sources: Sources,
    split: str,
    *,
    name: str,
    codebook: Codebook | str,
    settings: GallerySettings = GallerySettings(),
    grounding: Mapping[str, GroundingResult] | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Write ``index.html``, the pictures beside it and the same as ``gallery.json``; whole or not at all.

    Args:
        name: of the model, for the title.
        codebook: of the model's run, or why there is none.
        grounding: by name, word-to-region accuracies to show.

    Returns:
        The content of ``gallery.json``.

    Raises:
        CrossAlignError: the place is taken, no such split, a photo that is not there, regions without boxes.
    """
    folder = Path(folder)
    check_gallery_folder(folder, overwrite)
    part = sources.collection.split(split)
    chosen = np.random.default_rng(settings.seed).permutation(len(part.image_ids))
    gathered = _gather(model, sources, part, chosen, codebook, settings, progress)
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        shown = []
        with tracked(gathered.pairs, "draw", enabled=progress) as pairs:
            for number, (image_id, caption_id, found) in enumerate(pairs, start=1):
                file = f"pair-{number:02d}.png"
                note = f"{image_id} · {name} · similarity of photo and caption {found.score:.2f}"
                photo = open_photo(sources.collection.image_path(image_id))
                picture = draw_correspondence(photo, found, note=note, all_words=settings.all_words)
                save_picture(picture, temporary / file)
                shown.append((file, image_id, caption_id, found))
        page = GalleryPage(
            title=f"What {name} matches",
            subtitle=f"Collection {sources.collection.name}, split {split}: sampled pairs with the region that each "
            f"word chose{', and what the concepts of the codebook are about' if gathered.concepts else ''}.",
            pairs=[ShownPair(file, _said(found)) for file, _, _, found in shown],
            pairs_note=_pairs_note(settings),
            concepts=gathered.concepts,
            crops=_crops(sources.collection, gathered.concepts),
            concepts_note=_concepts_note(codebook, gathered.concepts),
            grounding=grounding or {},
        )
        write_text(temporary / "index.html", render_gallery(page))
        summary: dict[str, Any] = {
            "model": name,
            "collection": sources.collection.name,
            "split": split,
            "pairs": [
                {"file": file, "image_id": image_id, "caption_id": caption_id, **found.to_json()}
                for file, image_id, caption_id, found in shown
            ],
            "concepts": None if gathered.concepts is None else gathered.concepts.to_json(),
            "no_concepts": codebook if isinstance(codebook, str) else None,
            "grounding": {key: result.to_json() for key, result in (grounding or {}).items()},
        }
        write_json(temporary / SUMMARY, summary)
    return summary


def _gather(
    model: RetrievalModel,
    sources: Sources,
    part: Split,
    chosen: npt.NDArray[np.int64],
    codebook: Codebook | str,
    settings: GallerySettings,
    progress: bool,
) -> _Gathered:
    """Encode what is needed once: all captions of the images that concepts are judged by, one of each pair shown."""
    random = np.random.default_rng([settings.seed, 1])
    captions_of = [np.flatnonzero(part.image_of_text == image) for image in chosen[: settings.pairs]]
    shown = {int(random.choice(captions)): place for place, captions in enumerate(captions_of)}
    captions = np.array(sorted(shown), np.int64)
    counter = None
    if isinstance(codebook, Codebook):
        counter = ConceptCounter(codebook)
        judged = np.isin(part.image_of_text, chosen[: settings.images])
        captions = np.union1d(captions, np.flatnonzero(judged))
    place_of = {part.caption_ids[caption]: place for caption, place in shown.items()}
    pairs: dict[int, tuple[str, str, Correspondence]] = {}
    _, images, texts = sources.split(model, part.name)
    with closing(encoded_pairs(model, part, images, texts, captions, progress=progress)) as encoded:
        for pair in encoded:
            if counter is not None:
                counter.add(pair)
            if pair.caption_id in place_of:
                found = correspond(pair, top=settings.top, units=settings.units, all_words=settings.all_words)
                pairs[place_of[pair.caption_id]] = (pair.image_id, pair.caption_id, found)
    concepts = None if counter is None else counter.result(settings.concepts)
    return _Gathered([pairs[place] for place in sorted(pairs)], concepts)


def _crops(collection: Collection, use: ConceptUse | None) -> dict[int, list[Image.Image]]:
    """The typical regions of the shown concepts, cut out of their photos."""
    crops: dict[int, list[Image.Image]] = {}
    for concept in use.shown if use is not None else ():
        crops[concept.index] = []
        for region in concept.regions:
            photo = open_photo(collection.image_path(region.image_id))
            crops[concept.index].append(filled_square(photo.crop(pixel_box(region.box, photo.size)), _CROP))
    return crops


def _said(found: Correspondence) -> str:
    """A picture's content for those who do not see it."""
    pairs = ", ".join(f"{found.words[pair.word].text} {pair.similarity:.2f}" for pair in found.pairs)
    return f"{found.text} Most similar words and regions: {pairs}."


def _pairs_note(settings: GallerySettings) -> str:
    kind = UNITS_SAID[settings.units]
    left_out = "" if settings.all_words else " Articles, prepositions and their like are left out."
    return (
        f"Each word chooses the region it is most similar to (cosine of word and region {kind}); the {settings.top} "
        "most similar pairs are framed, and colours and numbers say what belongs together. Each heat map has a scale "
        f"of its own.{left_out} Pairs are drawn by lot."
    )


def _concepts_note(codebook: Codebook | str, use: ConceptUse | None) -> str:
    if isinstance(codebook, str) or use is None:
        return f"Left out. {codebook}."
    other = (
        ""
        if codebook.epoch == codebook.model_epoch
        else f" The codebook is that of epoch {codebook.epoch}, the model that of epoch {codebook.model_epoch}."
    )
    centred = ", once the mean is taken from both as in training" if codebook.centred else ""
    return (
        f"Each of {use.regions:,} regions and {use.words:,} words of {use.images:,} images belongs to the concept "
        f"that it is nearest to{centred}. These are the {len(use.shown)} most used concepts, each with its most "
        f"frequent words and the regions most similar to it (cosine below).{other}"
    )
