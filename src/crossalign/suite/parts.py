"""The parts of an evaluation on everything: each measures one thing, or says in one line why it cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from crossalign.data.collection import Split
from crossalign.errors import CrossAlignError
from crossalign.evaluation.correlation import sampled_spearman
from crossalign.evaluation.grounding import GroundingResult
from crossalign.evaluation.group_retrieval import group_retrieval
from crossalign.evaluation.relevance import RelevanceTable
from crossalign.evaluation.results import RetrievalResult
from crossalign.evaluation.tables import metric_label
from crossalign.suite.class_layouts import LabelledPhotos
from crossalign.suite.cxc import CxcPart
from crossalign.suite.eccv import coco_test_ids, eccv_metrics
from crossalign.suite.lookup import Lookup
from crossalign.suite.needs import (
    PAIRS_ALONE,
    LeftOutError,
    encode_judged,
    need_photos,
    need_texts,
    pair_cosines,
)
from crossalign.suite.result import Measure
from crossalign.suite.sentence_states import SentenceStates
from crossalign.suite.spaces import EncodedPart, embed_photos
from crossalign.suite.sts import average, sentence_similarity
from crossalign.suite.sts_files import STS_SETS, SentencePairs
from crossalign.suite.subject import Subject

__all__ = [
    "caption_part",
    "class_part",
    "cxc_part",
    "eccv_part",
    "retrieval_part",
    "sentence_part",
    "word_part",
]


def retrieval_part(result: RetrievalResult) -> Measure:
    """Recall in both directions, as ``crossalign evaluate`` measures it."""
    rows = tuple(
        (metric_label(name), f"{value:.2f}", "{:.2f} – {:.2f}".format(*result.intervals[name]))
        for name, value in result.metrics.items()
    )
    counts = f"{len(result.table.i2t):,} images, {len(result.table.t2i):,} captions, {result.protocol}"
    return Measure(
        "retrieval",
        "Image-text retrieval",
        dict(result.metrics),
        ("metric", "value", f"{100 * result.confidence:g} % interval"),
        rows,
        f"{counts}; intervals: bootstrap over images.",
        {"intervals": {name: list(ends) for name, ends in result.intervals.items()}},
    )


def caption_part(subject: Subject, split: Split, part: EncodedPart | None, progress: bool) -> Measure:
    """Captions of the same image as relevant to each other."""
    need_texts(subject)
    counts = np.bincount(split.image_of_text)
    if counts.max() < 2:
        raise LeftOutError(f"no image of split '{split.name}' has two captions")
    embeddings = part.text_alone if part is not None else subject.embed_texts(split.texts, progress)
    assert embeddings is not None
    table = group_retrieval(embeddings, split.image_of_text, progress=progress)
    note = f"{len(table.queries):,} captions ask for the others of their image among {len(split.texts):,}."
    return _relevance("captions", "Caption to caption", table, note)


def eccv_part(subject: Subject, split: Split, part: EncodedPart | None, progress: bool) -> Measure:
    """ECCV Caption and the recalls of CxC."""
    need_photos(subject)
    assert part is not None
    numeric = all(item.isdecimal() for item in (*split.image_ids, *split.caption_ids))
    if not numeric or len(split.image_ids) != 5000:
        raise LeftOutError(
            f"split '{split.name}' is not COCO's test split with COCO's numbers ({len(split.image_ids):,} images)"
        )
    images, captions = ([int(item) for item in ids] for ids in (split.image_ids, split.caption_ids))
    try:
        known = coco_test_ids()
    except CrossAlignError as error:
        raise LeftOutError(str(error)) from None
    for name, given, wanted in (("images", images, known[0]), ("captions", captions, known[1])):
        if set(given) != wanted:
            found = len(wanted.intersection(given))
            raise LeftOutError(
                f"split '{split.name}' has {found:,} of the {len(wanted):,} {name} of COCO's test split"
            )
    metrics = eccv_metrics(*part.all_scores(), images, captions, progress=progress)
    names = {"map_at_r": "mAP@R", "r_precision": "R-Precision"}
    rows = []
    for group, title, kinds in (
        ("eccv", "ECCV Caption", ("map_at_r", "r_precision", "r1")),
        ("cxc", "CxC", ("r1", "r5", "r10")),
    ):
        for kind in kinds:
            told = f"{title} {names.get(kind) or f'R@{kind[1:]}'}"
            rows.append((told, *(f"{metrics[f'{group}_{way}_{kind}']:.2f}" for way in ("i2t", "t2i"))))
    return Measure(
        "eccv",
        "ECCV Caption and CxC",
        metrics,
        ("metric", "image→text", "text→image"),
        tuple(rows),
        "COCO's test split with the matches that people have added.",
    )


def sentence_part(
    subject: Subject,
    sets: Mapping[str, Sequence[SentencePairs]],
    progress: bool,
    states: SentenceStates | None = None,
) -> Measure:
    """Spearman's correlation on sets of sentence pairs."""
    need_texts(subject)
    measured = sentence_similarity(lambda texts: subject.embed_texts(texts, progress, states), sets)
    mean = average(measured)
    # Of fewer sets it is another number, and bears another name.
    whole = set(measured) >= set(STS_SETS)
    closing = "average" if whole else f"average_of_{len(measured)}"
    rows = [
        (name, f"{entry.all:.2f}", f"{entry.mean:.2f}", f"{entry.weighted:.2f}", f"{entry.pairs:,}")
        for name, entry in measured.items()
    ]
    return Measure(
        "sts",
        "Sentence similarity",
        {name: entry.all for name, entry in measured.items()} | {closing: mean},
        ("set", "Spearman", "mean of subsets", "weighted mean", "pairs"),
        (*rows, (closing.replace("_", " "), f"{mean:.2f}", "", "", "")),
        "Spearman's correlation of cosines with judgements, in percent; all subsets of a set together.",
        {name: asdict(entry) for name, entry in measured.items()},
    )


def cxc_part(subject: Subject, lookup: Lookup | None, part: CxcPart, progress: bool) -> Measure:
    """Correlation with the judgements of Crisscrossed Captions, of one kind."""
    if lookup is None:
        raise LeftOutError(
            "the CSVs name captions and photos of COCO by number; no collection is named (--collection)"
        )
    if "image" in part.kinds:
        need_photos(subject)
    if part.kinds == ("caption", "caption"):
        need_texts(subject)
    elif part.kinds == ("image", "image") and not subject.compares_texts:
        raise LeftOutError(PAIRS_ALONE.format("images"))
    images, captions = sorted(part.wanted("image")), sorted(part.wanted("caption"))
    for name, wanted, known in (
        ("images", images, lookup.image_of_number),
        ("captions", captions, lookup.caption_of_number),
    ):
        found = sum(number in known for number in wanted)
        if found < len(wanted):
            raise LeftOutError(
                f"the collection has {found:,} of the {len(wanted):,} {name} of COCO that are judged"
            )
    image_ids = [lookup.image_of_number[number] for number in images]
    caption_ids = [lookup.caption_of_number[number] for number in captions]
    rows = {"image": {number: row for row, number in enumerate(images)}}
    rows["caption"] = {number: row for row, number in enumerate(captions)}
    first, second = (
        np.array([rows[kind][int(number)] for number in column])
        for kind, column in zip(part.kinds, (part.first, part.second), strict=True)
    )
    if part.kinds == ("caption", "image"):
        scores = encode_judged(subject, lookup, image_ids, caption_ids, progress).pair_scores(second, first)
    elif part.kinds == ("image", "image"):
        # The tower of texts has to read something: any caption.
        any_caption = [next(iter(lookup.text))]
        alone = encode_judged(subject, lookup, image_ids, any_caption, progress).image_alone
        assert alone is not None
        scores = pair_cosines(alone, first, second)
    else:
        texts = [lookup.text[caption] for caption in caption_ids]
        scores = pair_cosines(subject.embed_texts(texts, progress), first, second)
    measured = sampled_spearman(part.first, scores, part.judgement)
    name = part.name.upper()
    return Measure(
        f"cxc_{part.name}",
        f"Crisscrossed Captions, {name}",
        {"spearman": measured.mean, "deviation": measured.deviation},
        ("part", "Spearman", "deviation", "pairs"),
        ((name, f"{measured.mean:.2f}", f"{measured.deviation:.2f}", f"{len(scores):,}"),),
        f"Sampled Spearman's correlation, in percent: mean and deviation over {measured.samples:,} samples of half of "
        "the queries with one judged pair each.",
    )


def class_part(subject: Subject, photos: LabelledPhotos, key: str, progress: bool) -> Measure:
    """Retrieval of photos by class."""
    need_photos(subject)
    assert subject.model is not None
    if not subject.compares_texts:
        raise LeftOutError(PAIRS_ALONE.format("images"))
    if subject.model.dual is None and not subject.model.config.image.backbones:
        raise LeftOutError("the model takes imported features and encodes no photos")
    table = group_retrieval(
        embed_photos(subject.model, photos.paths, progress=progress),
        photos.label,
        query=photos.query,
        gallery=photos.gallery,
        progress=progress,
    )
    note = (
        f"{photos.layout}: {len(table.queries):,} photos ask for others of their class among "
        f"{len(photos.gallery):,} of {photos.classes:,} classes."
    )
    return _relevance(key, f"Photo to photo, {photos.name}", table, note)


def word_part(words: GroundingResult) -> Measure:
    """On synthetic scenes, how often a word's region shows what it means."""
    low, high = words.interval
    row = ("all words", f"{words.accuracy:.2f}", f"{words.chance:.2f}", f"{low:.2f} – {high:.2f}")
    metrics = {"accuracy": words.accuracy, "chance": words.chance}
    header = ("words", "accuracy", "chance", "95 % interval")
    return Measure("words", "Word to region", metrics, header, (row,), "", words.to_json())


def _relevance(key: str, title: str, table: RelevanceTable, note: str) -> Measure:
    metrics = table.metrics()
    labels = {"r_precision": "R-Precision", "map_at_r": "mAP@R"}
    rows = tuple((labels.get(name) or f"R@{name[1:]}", f"{value:.2f}") for name, value in metrics.items())
    return Measure(key, title, metrics, ("metric", "value"), rows, note)
