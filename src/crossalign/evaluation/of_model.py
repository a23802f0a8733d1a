"""Evaluating a model on a split of a collection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crossalign.data.collection import Split
from crossalign.data.loading import ImageSource, TextSource
from crossalign.encode import encode_split, encode_units
from crossalign.errors import CrossAlignError
from crossalign.evaluation.gallery import (
    EmbeddingGallery,
    Gallery,
    RerankedGallery,
    ScoredGallery,
    gallery_table,
)
from crossalign.evaluation.hubness import BANK_METHODS, TEMPERATURE, CorrectedGallery, check_correction
from crossalign.evaluation.metrics import fold_size
from crossalign.evaluation.results import HubnessRecord, Reranking, ResultSubject, RetrievalResult, ids_digest
from crossalign.evaluation.retrieval import result_of_ranks
from crossalign.model import RetrievalModel
from crossalign.reranking import RERANK_TOP
from crossalign.sources import Sources
from crossalign.towers.settings import RegionKind
from crossalign.truncation import check_width

__all__ = [
    "EncodedSplit",
    "Hubness",
    "SecondStage",
    "about_split",
    "check_first",
    "check_folds",
    "check_second",
    "encode_gallery",
    "evaluate_model",
    "split_gallery",
    "split_metrics",
]


_REGIONS: dict[RegionKind, str] = {"grid": "grid cells", "boxes": "boxes", "both": "grid cells and boxes"}


@dataclass(frozen=True)
class SecondStage:
    """A model that scores pairs, what it is given, and how many of a first model's best it looks at.

    Attributes:
        top: how many of each query's best it puts into order.
        name: of the model, for the record.
    """

    model: RetrievalModel
    sources: Sources
    top: int = RERANK_TOP
    name: str | None = None

    def told(self) -> Reranking:
        """What a result records of it."""
        return Reranking(model=self.model.fingerprint, top=self.top, name=self.name)


@dataclass(frozen=True)
class EncodedSplit:
    """A split as a model sees it, ready to be measured.

    Attributes:
        part: its ids and captions.
        gallery: what the model made of them.
        about: what goes with every result of it.
    """

    part: Split
    gallery: Gallery
    about: ResultSubject

    def result(self, *, folds: int = 1, command: str = "") -> RetrievalResult:
        """Retrieval in both directions; arguments as for :func:`evaluate_model`."""
        table = gallery_table(self.gallery, self.part.image_of_text, folds=folds)
        return result_of_ranks(table, replace(self.about, command=command))


@dataclass(frozen=True)
class Hubness:
    """A correction of hubs, see :class:`~crossalign.evaluation.hubness.CorrectedGallery`.

    Attributes:
        method: by name.
        temperature: of its softmax.
        bank: the split whose captions and images are the bank of queries, for the methods that take one.

    Raises:
        CrossAlignError: an unknown method, a temperature that is not positive.
    """

    method: str
    temperature: float = TEMPERATURE
    bank: str = "train"

    def __post_init__(self) -> None:
        check_correction(self.method, self.temperature)

    @property
    def has_bank(self) -> bool:
        """Whether the method takes a bank."""
        return self.method in BANK_METHODS


def evaluate_model(
    model: RetrievalModel,
    sources: Sources,
    split: str,
    *,
    folds: int = 1,
    width: int | None = None,
    reranker: SecondStage | None = None,
    hubness: Hubness | None = None,
    command: str = "",
    progress: bool = False,
) -> RetrievalResult:
    """Encode a split and measure retrieval in both directions.

    Args:
        folds: galleries that the split is cut into; 5 for the COCO 1K protocol.
        width: of the embeddings that are compared, cut by :func:`~crossalign.truncation.truncate`; None: all of them.
        reranker: a second model that puts the best of each query into its own order.
        hubness: corrects the scores for hubs.
        command: the command line, kept with the result.

    Raises:
        CrossAlignError: no such split, stores that other backbones made than the model's, unreadable photos, a
            re-ranker that does not score pairs or sees another collection, a width that the embeddings do not have.
    """
    check_folds(sources, split, folds)
    encoded = split_gallery(
        model, sources, split, width=width, reranker=reranker, hubness=hubness, progress=progress
    )
    return encoded.result(folds=folds, command=command)


def check_folds(sources: Sources, split: str, folds: int) -> None:
    """Refuse folds that the split does not divide into, before it is encoded."""
    if folds != 1:
        fold_size(len(sources.collection.split(split).image_ids), folds)


def split_gallery(
    model: RetrievalModel,
    sources: Sources,
    split: str,
    *,
    width: int | None = None,
    reranker: SecondStage | None = None,
    hubness: Hubness | None = None,
    progress: bool = False,
) -> EncodedSplit:
    """Encode a split: the first half of :func:`evaluate_model`, which says what is refused."""
    check_stores(model, sources)
    if hubness is not None:
        _check_hubness(hubness, split, reranker, sources)
    if reranker is not None:
        check_first(model, "the first model")
        check_second(reranker.model, reranker.name or "the second model")
    if width is not None:
        _check_truncation(model, width)
    part, images, texts = sources.split(model, split)
    about = replace(
        about_split(model, sources, part),
        width=width,
        reranking=None if reranker is None else reranker.told(),
    )
    first = encode_gallery(model, images, texts, progress=progress)
    if width is not None:
        assert isinstance(first, EmbeddingGallery)
        first = first.truncated(width, model.embedding_parts)
    if hubness is not None:
        corrected = _corrected(first, hubness, model, sources, width, progress)
        return EncodedSplit(part, corrected, replace(about, hubness=_record(corrected, hubness)))
    if reranker is None:
        return EncodedSplit(part, first, about)
    assert isinstance(first, EmbeddingGallery)
    return EncodedSplit(part, _reranked(first, reranker, sources, part, split, progress), about)


def about_split(model: RetrievalModel, sources: Sources, part: Split) -> ResultSubject:
    """What goes with every result of this model on this split."""
    return ResultSubject(
        collection=sources.collection.name,
        split=part.name,
        model=model.fingerprint,
        image_digest=ids_digest(part.image_ids),
        caption_digest=ids_digest(part.caption_ids),
    )


def split_metrics(
    model: RetrievalModel, split: Split, images: ImageSource, texts: TextSource
) -> dict[str, float]:
    """Every metric of a split by name, without intervals, as a training run validates."""
    return gallery_table(encode_gallery(model, images, texts), split.image_of_text).metrics()


def encode_gallery(
    model: RetrievalModel, images: ImageSource, texts: TextSource, *, progress: bool = False
) -> EmbeddingGallery | ScoredGallery:
    """A split as the model compares it: by embeddings, or pair by pair.

    Raises:
        CrossAlignError: a photo that cannot be read.
    """
    if model.scorer is None:
        return EmbeddingGallery(*encode_split(model, images, texts, progress=progress))
    return ScoredGallery(
        model.scorer, *encode_units(model, images, texts, progress=progress), progress=progress
    )


def _check_hubness(hubness: Hubness, split: str, reranker: SecondStage | None, sources: Sources) -> None:
    """Said before anything is encoded."""
    if reranker is not None:
        raise CrossAlignError("--hubness corrects the scores of one model; leave --rerank out")
    if hubness.has_bank:
        if hubness.bank == split:
            raise CrossAlignError(
                f"--hubness {hubness.method}: '{split}' is what is measured and cannot be the bank; name another split"
            )
        sources.collection.split(hubness.bank)


def _corrected(
    first: EmbeddingGallery | ScoredGallery,
    hubness: Hubness,
    model: RetrievalModel,
    sources: Sources,
    width: int | None,
    progress: bool,
) -> CorrectedGallery:
    bank = None
    if hubness.has_bank:
        _, images, texts = sources.split(model, hubness.bank)
        bank = encode_gallery(model, images, texts, progress=progress)
        if width is not None:
            assert isinstance(bank, EmbeddingGallery)
            bank = bank.truncated(width, model.embedding_parts)
    return CorrectedGallery(first, hubness.method, hubness.temperature, bank)


def _record(gallery: CorrectedGallery, hubness: Hubness) -> HubnessRecord:
    if gallery.bank is None:
        return HubnessRecord(method=hubness.method, temperature=hubness.temperature, transductive=True)
    images, captions = gallery.bank.size
    return HubnessRecord(
        method=hubness.method,
        temperature=hubness.temperature,
        transductive=False,
        bank=hubness.bank,
        bank_captions=captions,
        bank_images=images,
    )


def _check_truncation(model: RetrievalModel, width: int) -> None:
    """Said before anything is encoded."""
    if model.config.scorer is not None:
        raise CrossAlignError(
            f"--width cuts embeddings, and this model scores every pair ({model.config.scorer.kind}); leave it out"
        )
    check_width(width, model.dim, model.embedding_parts)


def check_first(model: RetrievalModel, name: str | Path) -> None:
    """Refuse a model whose best cannot be re-ranked.

    Raises:
        CrossAlignError: it scores pairs already.
    """
    if model.scorer is not None:
        raise CrossAlignError(
            f"{name}: scores every pair already; --rerank needs a first model with embeddings"
        )


def check_second(model: RetrievalModel, name: str | Path) -> None:
    """Refuse a model that cannot re-rank.

    Raises:
        CrossAlignError: it has no scorer.
    """
    if model.scorer is None:
        raise CrossAlignError(
            f"{name}: --rerank needs a model with a scorer (model.scorer in its recipe), this one compares "
            "embeddings; name another"
        )


def _reranked(
    fast: EmbeddingGallery,
    reranker: SecondStage,
    sources: Sources,
    part: Split,
    split: str,
    progress: bool,
) -> RerankedGallery:
    check_stores(reranker.model, reranker.sources)
    other, images, texts = reranker.sources.split(reranker.model, split)
    if (list(other.image_ids), list(other.caption_ids)) != (list(part.image_ids), list(part.caption_ids)):
        raise CrossAlignError(
            f"--rerank: split '{split}' of {reranker.sources.collection.folder} is not that of "
            f"{sources.collection.folder}; name one collection for both (--collection)"
        )
    slow = encode_gallery(reranker.model, images, texts, progress=progress)
    assert isinstance(slow, ScoredGallery)
    return RerankedGallery(fast, slow, reranker.top)


def check_stores(model: RetrievalModel, sources: Sources) -> None:
    """Features that other backbones made would give plausible, wrong numbers.

    Raises:
        CrossAlignError: a store's backbone is not the model's, or its regions are of another kind.
    """
    if model.dual is not None:
        if sources.image_stores or sources.text_store is not None:
            raise CrossAlignError(
                "features: the model is a dual encoder, which reads photos and captions themselves; leave features out"
            )
        return
    backbones = model.config.image.backbones
    made_by = [store.manifest.get("backbone") for store in sources.image_stores]
    if sources.image_stores and model.config.image.train_backbone:
        raise CrossAlignError(
            "image features: the model has fine-tuned its own backbones; let it encode the photos, without features"
        )
    if sources.image_stores and backbones:
        asked = [_identity(backbone.model_dump(mode="json")) for backbone in backbones]
        if [_identity(found) for found in made_by] != asked:
            wanted = ", ".join(backbone.name for backbone in backbones)
            given = ", ".join((found or {}).get("name", "imported features") for found in made_by)
            raise CrossAlignError(
                f"image features: the model takes those of {wanted}, made with the same settings; given are {given}"
            )
        if sources.regions != model.config.image.regions:
            takes, holds = _REGIONS[model.config.image.regions], _REGIONS[sources.regions]
            raise CrossAlignError(
                f"image features: the model takes {takes}, the stores hold {holds}; name features of {takes}"
            )
    width = sum(store.dim for store in sources.image_stores)
    if sources.image_stores and width != model.image_tower.feature_dim:
        raise CrossAlignError(
            f"image features: {width} wide, but the model takes {model.image_tower.feature_dim}"
        )
    if sources.text_store is not None:
        backbone = model.text_tower.backbone
        found = sources.text_store.manifest.get("backbone")
        if backbone is None or _identity(found) != _identity(backbone.config.model_dump(mode="json")):
            raise CrossAlignError(
                "text features: made by another encoder than the model's; leave --text-features out"
            )


def _identity(backbone: dict[str, Any] | None) -> dict[str, Any] | None:
    """A backbone's settings without the place of its weights, which may have moved; a checksum tells them."""
    if backbone is None:
        return None
    place = "weights" if "weights" in backbone else "name"
    return {key: value for key, value in backbone.items() if key != place}
