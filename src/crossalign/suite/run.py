"""Evaluating one model on everything its data allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from crossalign.errors import CrossAlignError
from crossalign.evaluation.of_model import EncodedSplit, about_split
from crossalign.evaluation.results import RetrievalResult
from crossalign.evaluation.scene_words import ground_scenes, has_scene_truth
from crossalign.suite import parts
from crossalign.suite.class_layouts import LabelledPhotos
from crossalign.suite.cxc import CXC_PARTS
from crossalign.suite.further import FurtherData
from crossalign.suite.judged import JudgedPairs
from crossalign.suite.lookup import Lookup
from crossalign.suite.needs import LeftOutError
from crossalign.suite.result import Measure, Skipped, SuiteResult
from crossalign.suite.sentence_states import SentenceStates
from crossalign.suite.spaces import EncodedPart, encode_part
from crossalign.suite.subject import Subject

__all__ = ["evaluate_suite"]


def evaluate_suite(
    subject: Subject,
    further: FurtherData | None = None,
    *,
    split: str = "test",
    folds: int = 1,
    sentence_states: SentenceStates | None = None,
    command: str = "",
    progress: bool = False,
) -> SuiteResult:
    """Measure everything that the model and the data allow; what they do not is left out with the reason.

    Args:
        subject: the model with its collection, of :func:`~crossalign.suite.subject.open_subject`.
        further: data besides the collection; None: none.
        split: of the collection.
        folds: galleries that image-text retrieval cuts the split into; 5 for the COCO 1K protocol.
        sentence_states: where token states of the sentence pairs are kept for the next model with the same frozen
            text encoder; None: encode them anew.
        command: kept with the result.

    Raises:
        CrossAlignError: the data does not fit the model or is of another split, or nothing can be measured.
    """
    further = further or FurtherData(split)
    if further.cxc is not None and further.split != split:
        raise CrossAlignError(f"Crisscrossed Captions were read of the split {further.split}, not of {split}")
    found = _Found()
    retrieval = _measure_collection(subject, split, folds, command, progress, found)
    _measure_further(subject, further, sentence_states, progress, found)
    if not found.kept:
        raise CrossAlignError(
            "nothing can be measured: " + "; ".join(f"{part.title}: {part.reason}" for part in found.left)
        )
    return SuiteResult(
        name=subject.name,
        model=subject.fingerprint,
        trained_on=subject.trained_on,
        collection="" if subject.collection is None else subject.collection.name,
        split="" if subject.collection is None else split,
        measures=tuple(found.kept),
        skipped=tuple(found.left),
        retrieval=retrieval,
        command=command,
        uni_modal=subject.uni_modal,
    )


class _Found:
    """What was measured and what was left out, in the order of the report."""

    def __init__(self) -> None:
        self.kept: list[Measure] = []
        self.left: list[Skipped] = []

    def attempt(self, title: str, part: Callable[[], Measure]) -> None:
        try:
            self.kept.append(part())
        except LeftOutError as reason:
            self.leave(title, str(reason))

    def leave(self, title: str, reason: str) -> None:
        self.left.append(Skipped(title, reason))


def _measure_collection(
    subject: Subject, split_name: str, folds: int, command: str, progress: bool, found: _Found
) -> RetrievalResult | None:
    """What images and captions of a split allow, encoded once."""
    titles = ("Image-text retrieval", "Caption to caption", "ECCV Caption and CxC")
    if subject.collection is None:
        for title in titles:
            found.leave(title, "no collection is named (--collection)")
        return None
    split = subject.collection.split(split_name)
    encoded: EncodedPart | None = None
    result: RetrievalResult | None = None
    if subject.model is None:
        found.leave(titles[0], "a sentence encoder embeds no photos")
    else:
        assert subject.sources is not None
        split, images, texts = subject.sources.split(subject.model, split_name)
        encoded = encode_part(subject.model, images, texts, progress=progress)
        about = replace(about_split(subject.model, subject.sources, split), trained_on=subject.trained_on)
        result = EncodedSplit(split, encoded.gallery(), about).result(folds=folds, command=command)
        measured = result
        found.attempt(titles[0], lambda: parts.retrieval_part(measured))
    found.attempt(titles[1], lambda: parts.caption_part(subject, split, encoded, progress))
    found.attempt(titles[2], lambda: parts.eccv_part(subject, split, encoded, progress))
    if subject.model is not None and subject.sources is not None and has_scene_truth(subject.sources):
        words = ground_scenes(subject.model, subject.sources, split_name)
        found.attempt("Word to region", lambda: parts.word_part(words))
    return result


def _measure_further(
    subject: Subject,
    further: FurtherData,
    states: SentenceStates | None,
    progress: bool,
    found: _Found,
) -> None:
    """What sentence pairs, judgements and photos with classes allow."""
    lookup = None if subject.collection is None else Lookup(subject.collection)
    if (sets := further.sts) is not None:
        found.attempt("Sentence similarity", lambda: parts.sentence_part(subject, sets, progress, states))
    else:
        found.leave("Sentence similarity", "no folder of sentence pairs is named (--sts)")
    if further.cxc is not None:
        crossed = {part.name: part for part in further.cxc}
        for kind in CXC_PARTS:
            title = f"Crisscrossed Captions, {kind.upper()}"
            if kind not in crossed:
                found.leave(title, f"there is no {kind}_{further.split}.csv")
                continue
            part = crossed[kind]
            found.attempt(title, lambda part=part: parts.cxc_part(subject, lookup, part, progress))  # type: ignore[misc]
    else:
        found.leave("Crisscrossed Captions", "no folder of its CSVs is named (--cxc)")
    pairs = JudgedPairs(subject, lookup, further.judgements or (), progress)
    for entry in further.judgements or ():
        found.attempt(entry.title, lambda entry=entry: pairs.measure(entry))  # type: ignore[misc]
    if further.judgements is None:
        found.leave("Human judgements", "no folder of judgements is named (--judgements)")
    for key, photos in _keys(further.classes):
        found.attempt(
            f"Photo to photo, {photos.name}",
            lambda key=key, photos=photos: parts.class_part(subject, photos, key, progress),  # type: ignore[misc]
        )
    if not further.classes:
        found.leave("Photo to photo", "no photos with classes are named (--classes)")


def _keys(labelled: Sequence[LabelledPhotos]) -> list[tuple[str, LabelledPhotos]]:
    """A name for each set of photos; several of one name are counted."""
    seen: dict[str, int] = {}
    keys = []
    for photos in labelled:
        seen[photos.name] = seen.get(photos.name, 0) + 1
        count = seen[photos.name]
        keys.append((f"classes_{photos.name}" + (f"_{count}" if count > 1 else ""), photos))
    return keys
