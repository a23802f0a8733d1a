"""What ``crossalign explain`` does: one photo, a gallery, or scores."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from crossalign.data.labelled_boxes import read_label_names
from crossalign.data.labels import COCO_LABELS
from crossalign.data.photos import open_photo
from crossalign.drawing import save_picture
from crossalign.errors import CrossAlignError
from crossalign.evaluation.encoded_pairs import UNITS_SAID, Units
from crossalign.evaluation.grounding import GroundingResult
from crossalign.evaluation.of_model import check_stores
from crossalign.evaluation.run_sources import run_recipe, run_sources, short_name
from crossalign.evaluation.scene_words import has_scene_truth
from crossalign.explain.concepts import Codebook, NoCodebookError, load_codebook
from crossalign.explain.correspondence import correspond
from crossalign.explain.gallery import GallerySettings, check_gallery_folder, write_gallery
from crossalign.explain.known_words import EntityWords, KnownWords, LabelWords, SceneWords
from crossalign.explain.of_model import encode_photo_and_caption
from crossalign.explain.overlay import draw_correspondence
from crossalign.explain.scores import WordScores, score_table, score_words
from crossalign.model import RetrievalModel
from crossalign.sources import Sources

__all__ = ["Boxes", "explain_collection", "explain_photo", "score_collection"]

_KINDS = 8


@dataclass(frozen=True)
class Boxes:
    """The options that say what the words of a collection mean."""

    path: Path | None = None
    labels: Path | None = None
    min_score: float | None = None
    entities: Path | None = None

    @property
    def given(self) -> bool:
        """Whether any of them was."""
        return self.path is not None or self.entities is not None

    def open(self, sources: Sources) -> KnownWords | None:
        """The known words of a collection; those of synthetic scenes need no option."""
        if self.path is not None:
            names = COCO_LABELS if self.labels is None else read_label_names(self.labels)
            return LabelWords(sources.collection, self.path, names, self.min_score)
        if self.entities is not None:
            return EntityWords(sources.collection, self.entities)
        return SceneWords(sources.collection) if has_scene_truth(sources) else None


def explain_photo(
    model: RetrievalModel,
    name: str,
    image: Path,
    caption: str,
    target: Path | None,
    *,
    top: int,
    units: Units,
    all_words: bool,
) -> dict[str, Any]:
    """Compare the words of a caption with the regions of a photo, and draw it where a target is given."""
    photo = open_photo(image)
    pair = encode_photo_and_caption(model, photo, caption, str(image))
    found = correspond(pair, top=top, units=units, all_words=all_words)
    unknown = model.unknown_words(caption)
    if target is not None:
        parts = [
            image.name,
            _title_name(name),
            f"words and regions {UNITS_SAID[units]}",
            f"similarity of photo and caption {found.score:.2f}",
            *([f"not known to the model: {', '.join(unknown)}"] if unknown else []),
        ]
        note = " · ".join(parts)
        save_picture(draw_correspondence(photo, found, note=note, all_words=all_words), target)
    return {
        "model": name,
        "image": str(image),
        **found.to_json(),
        "unknown_words": unknown,
        "picture": None if target is None else str(target),
    }


def explain_collection(
    model: RetrievalModel,
    name: str,
    collection: Path | None,
    split: str,
    out: Path,
    settings: GallerySettings,
    known: Boxes,
    against: str | None,
    stores: dict[str, Any],
    *,
    overwrite: bool,
    progress: bool,
) -> dict[str, Any]:
    """Write the gallery; with scores where it is known what words mean."""
    check_gallery_folder(out, overwrite)
    sources = run_sources(name, collection, **stores)
    check_stores(model, sources)
    codebook: Codebook | str
    try:
        codebook = load_codebook(name)
    except NoCodebookError as error:
        codebook = str(error)
    grounding: dict[str, GroundingResult] = {}
    words = known.open(sources)
    shown, base_shown = _short_names(name, against)
    if words is not None:
        mine = score_words(model, sources, split, words, progress=progress)
        grounding[shown] = _main_kinds(mine.result(settings.units, "accuracy"))
        if against is not None:
            base = _scores_of(against, model, sources, split, words, stores, progress=progress)
            grounding[base_shown] = _main_kinds(base.result(settings.units, "accuracy"))
    elif against is not None:
        raise _no_boxes(sources)
    return write_gallery(
        out,
        model,
        sources,
        split,
        name=_title_name(name),
        codebook=codebook,
        settings=settings,
        grounding=grounding,
        overwrite=overwrite,
        progress=progress,
    )


def score_collection(
    model: RetrievalModel,
    name: str,
    collection: Path | None,
    split: str,
    known: Boxes,
    against: str | None,
    stores: dict[str, Any],
    *,
    progress: bool,
) -> dict[str, Any]:
    """Count how often words find the right region; the table is printed where a bar may be shown, too."""
    sources = run_sources(name, collection, **stores)
    check_stores(model, sources)
    words = known.open(sources)
    if words is None:
        raise _no_boxes(sources)
    mine = score_words(model, sources, split, words, progress=progress)
    base = (
        None
        if against is None
        else _scores_of(against, model, sources, split, words, stores, progress=progress)
    )
    if progress:
        shown, base_shown = _short_names(name, against)
        # A file or a pipe has no width of its own: nothing need be folded there.
        width = None if sys.stdout.isatty() else 120
        Console(width=width).print(score_table(shown, mine, base_shown, base))
    return {
        "model": name,
        "collection": str(sources.collection.folder),
        "split": split,
        "words_from": words.source,
        "units": mine.to_json(base),
        "against": None if base is None else {"model": against, "units": base.to_json()},
    }


def _scores_of(
    name: str,
    other: RetrievalModel,
    others: Sources,
    split: str,
    words: KnownWords,
    stores: dict[str, Any],
    *,
    progress: bool,
) -> WordScores:
    """The scores of the base model on the other model's collection; see :func:`run_sources` for its stores there."""
    model = RetrievalModel.from_pretrained(name, other.device)
    sources = run_sources(name, others.collection.folder, **stores)
    check_stores(model, sources)
    return score_words(model, sources, split, words, progress=progress)


def _short_names(name: str, against: str | None) -> tuple[str, str]:
    """The last parts of both models' places, or the whole where those are the same."""
    short, base = Path(name).name, Path(against or "").name
    return (name, against or "") if short == base else (short, base)


def _title_name(model: str) -> str:
    """The name of a model for people: that of its folder, or of its recipe where the folder is just called `run`."""
    short = short_name(model)
    if short != "run":
        return short
    place = Path(model).resolve()
    recipe = run_recipe(place.parent if place.name == "model" else place)
    return short if recipe is None else recipe.name


def _no_boxes(sources: Sources) -> CrossAlignError:
    return CrossAlignError(
        f"{sources.collection.folder}: it is not known what its words mean; give boxes by --boxes or --entities"
    )


def _main_kinds(result: GroundingResult) -> GroundingResult:
    """The result with its most frequent kinds only: a detector may know hundreds of labels."""
    frequent = sorted(result.by_kind.items(), key=lambda item: -item[1].words)[:_KINDS]
    return replace(result, by_kind=dict(frequent))
