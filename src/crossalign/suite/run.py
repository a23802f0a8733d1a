"""Evaluating one model on everything its data allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from crossalign.errors import CrossAlignError
from crossalign.evaluation.of_model import EncodedSplit, about_split
from crossalign.evaluation.results import RetrievalResult
from crossalign.evaluation.scene_words import ground_scenes, has_scene_truth
from crossalign.suite import parts
from crossalign.suite.class_layouts import LabelledPhotos, read_labelled_photos
from crossalign.suite.cxc import CXC_PARTS, read_cxc
from crossalign.suite.judged import JudgedPairs
from crossalign.suite.judgements import read_judgements
from crossalign.suite.lookup import Lookup
from crossalign.suite.needs import LeftOutError
from crossalign.suite.result import Measure, Skipped, SuiteResult
from crossalign.suite.sentence_states import SentenceStates
from crossalign.suite.spaces import EncodedPart, encode_part
from crossalign.suite.sts_files import read_sts
from crossalign.suite.subject import Subject, open_subject

__all__ = ["evaluate_suite"]


def evaluate_suite(
    name: str | Path,
    *,
    collection: str | Path | None = None,
    split: str = "test",
    folds: int = 1,
    image_features: Sequence[str] = (),
    text_features: str | None = None,
    raw: bool = False,
    sts: str | Path | None = None,
    cxc: str | Path | None = None,
    judgements: str | Path | None = None,
    classes: Sequence[str | Path] = (),
    sentence_states: str | Path | None = None,
    device: str | torch.device = "cpu",
    command: str = "",
    progress: bool = False,
) -> SuiteResult:
    """Measure everything that the model and the data allow; what they do not is left out with the reason.

    Args:
        name: a training run, a model folder, a model of the Hugging Face Hub, or the folder of a sentence encoder.
        collection: images and captions; a run's own by default.
        folds: galleries that image-text retrieval cuts the split into; 5 for the COCO 1K protocol.
        image_features, text_features, raw: as for :func:`~crossalign.evaluation.of_run.evaluate_run`.
        sts: folder of sentence pairs, see :func:`~crossalign.suite.sts_files.read_sts`.
        cxc: folder of the CSVs of Crisscrossed Captions.
        judgements: folder of Flickr8k's judgements by experts and by the crowd.
        classes: photos with classes, see :func:`~crossalign.suite.class_layouts.read_labelled_photos`.
        sentence_states: folder where token states of the sentence pairs are kept for the next model with the same
            frozen text encoder; None: encode them anew.
        command: kept with the result.

    Raises:
        CrossAlignError: what is named is not there, is damaged or does not fit the model.
    """
    if cxc is not None and split not in ("val", "test"):
        raise CrossAlignError(
            f"Crisscrossed Captions has judgements of the splits val and test, not of {split}; leave --cxc out"
        )
    # All that is named is read before anything is encoded.
    sets = None if sts is None else read_sts(sts)
    crossed = None if cxc is None else read_cxc(cxc, split)
    judged = None if judgements is None else read_judgements(judgements)
    labelled = [read_labelled_photos(place) for place in classes]
    subject = open_subject(name, collection, image_features, text_features, raw=raw, device=device)
    kept: list[Measure] = []
    left: list[Skipped] = []

    def attempt(title: str, part: Callable[[], Measure]) -> None:
        try:
            kept.append(part())
        except LeftOutError as reason:
            left.append(Skipped(title, str(reason)))

    def leave(title: str, reason: str) -> None:
        left.append(Skipped(title, reason))

    retrieval = _collection_parts(subject, split, folds, command, progress, attempt, leave)
    lookup = None if subject.collection is None else Lookup(subject.collection)
    if sets is not None:
        states = None if sentence_states is None else SentenceStates(sentence_states)
        attempt("Sentence similarity", lambda: parts.sentence_part(subject, sets, progress, states))
    else:
        leave("Sentence similarity", "no folder of sentence pairs is named (--sts)")
    found = {part.name: part for part in crossed or ()}
    for kind in CXC_PARTS:
        title = f"Crisscrossed Captions, {kind.upper()}"
        if kind in found:
            attempt(title, lambda part=found[kind]: parts.cxc_part(subject, lookup, part, progress))  # type: ignore[misc]
        elif crossed is not None:
            leave(title, f"{cxc} has no file of it")
    if crossed is None:
        leave("Crisscrossed Captions", "no folder of its CSVs is named (--cxc)")
    pairs = JudgedPairs(subject, lookup, judged or (), progress)
    for entry in judged or ():
        attempt(entry.title, lambda entry=entry: pairs.measure(entry))  # type: ignore[misc]
    if judged is None:
        leave("Human judgements", "no folder of judgements is named (--judgements)")
    for key, photos in _keys(labelled):
        attempt(
            f"Photo to photo, {photos.name}",
            lambda key=key, photos=photos: parts.class_part(subject, photos, key, progress),  # type: ignore[misc]
        )
    if not labelled:
        leave("Photo to photo", "no photos with classes are named (--classes)")
    if not kept:
        raise CrossAlignError(
            "nothing can be measured: " + "; ".join(f"{part.title}: {part.reason}" for part in left)
        )
    return SuiteResult(
        name=subject.name,
        model=subject.fingerprint,
        trained_on=subject.trained_on,
        collection="" if subject.collection is None else subject.collection.name,
        split="" if subject.collection is None else split,
        measures=tuple(kept),
        skipped=tuple(left),
        retrieval=retrieval,
        command=command,
        uni_modal=subject.uni_modal,
    )


def _collection_parts(
    subject: Subject,
    split_name: str,
    folds: int,
    command: str,
    progress: bool,
    attempt: Callable[[str, Callable[[], Measure]], None],
    leave: Callable[[str, str], None],
) -> RetrievalResult | None:
    """What images and captions of a split allow, encoded once."""
    titles = ("Image-text retrieval", "Caption to caption", "ECCV Caption and CxC")
    if subject.collection is None:
        for title in titles:
            leave(title, "no collection is named (--collection)")
        return None
    split = subject.collection.split(split_name)
    encoded: EncodedPart | None = None
    result: RetrievalResult | None = None
    if subject.model is None:
        leave(titles[0], "a sentence encoder embeds no photos")
    else:
        assert subject.sources is not None
        split, images, texts = subject.sources.split(subject.model, split_name)
        encoded = encode_part(subject.model, images, texts, progress=progress)
        about = replace(about_split(subject.model, subject.sources, split), trained_on=subject.trained_on)
        result = EncodedSplit(split, encoded.gallery(), about).result(folds=folds, command=command)
        measured = result
        attempt(titles[0], lambda: parts.retrieval_part(measured))
    attempt(titles[1], lambda: parts.caption_part(subject, split, encoded, progress))
    attempt(titles[2], lambda: parts.eccv_part(subject, split, encoded, progress))
    if subject.model is not None and subject.sources is not None and has_scene_truth(subject.sources):
        words = ground_scenes(subject.model, subject.sources, split_name)
        attempt("Word to region", lambda: parts.word_part(words))
    return result


def _keys(labelled: Sequence[LabelledPhotos]) -> list[tuple[str, LabelledPhotos]]:
    """A name for each set of photos; several of one name are counted."""
    seen: dict[str, int] = {}
    keys = []
    for photos in labelled:
        seen[photos.name] = seen.get(photos.name, 0) + 1
        count = seen[photos.name]
        keys.append((f"classes_{photos.name}" + (f"_{count}" if count > 1 else ""), photos))
    return keys
