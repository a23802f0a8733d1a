"""Image-text retrieval metrics of embeddings: recall, ranks, and a whole evaluation with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from crossalign.evaluation.bootstrap import bootstrap_intervals
from crossalign.evaluation.gallery import EmbeddingGallery, Gallery, gallery_table
from crossalign.evaluation.inputs import Embeddings
from crossalign.evaluation.metrics import RECALL_AT, RankTable
from crossalign.evaluation.results import Reranking, RetrievalResult, ids_digest

__all__ = ["evaluate_retrieval", "gallery_result", "rank_table", "recall"]


def recall(
    image: Embeddings,
    text: Embeddings,
    image_of_text: ArrayLike,
    ks: Sequence[int] = RECALL_AT,
    folds: int = 1,
) -> dict[str, float]:
    """Recall at each cut-off in both directions, by inner product; every tie counts against the model.

    Args:
        image: ``(B, D)``, or ``(B, V, D)`` of which a caption meets the view that fits it best.
        text: ``(C, D)``.
        image_of_text: ``(C,)``, for each caption the position of its image; images may have different numbers
            of them.
        ks: cut-offs.
        folds: 1 for one gallery of all; 5 for the 1K protocol of COCO, the mean over 5 contiguous runs of
            images.

    Returns:
        ``i2t_r1`` ... ``t2i_r10`` in percent, where image-to-text counts the best of an image's captions;
        median and mean ranks ``i2t_medr``, ``t2i_medr``, ``i2t_meanr``, ``t2i_meanr``, 1 the best; ``rsum``,
        the sum of the recalls.

    Raises:
        CrossAlignError: embeddings that do not fit or hold NaN, an image without a caption, images that do
            not divide into the folds.
    """
    return rank_table(image, text, image_of_text, ks=ks, folds=folds).metrics()


def rank_table(
    image: Embeddings,
    text: Embeddings,
    image_of_text: ArrayLike,
    *,
    ks: Sequence[int] = RECALL_AT,
    folds: int = 1,
) -> RankTable:
    """The ranks behind ``recall``: each fold is a gallery of its own."""
    return gallery_table(EmbeddingGallery(image, text), image_of_text, ks=ks, folds=folds)


def evaluate_retrieval(
    image: Embeddings,
    text: Embeddings,
    image_of_text: ArrayLike,
    *,
    ks: Sequence[int] = RECALL_AT,
    folds: int = 1,
    collection: str = "",
    split: str = "",
    model: str = "",
    command: str = "",
    image_ids: Sequence[str] | None = None,
    caption_ids: Sequence[str] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> RetrievalResult:
    """Evaluate embeddings as ``recall`` does and keep the ranks, with a bootstrap interval for every metric.

    Args:
        image, text, image_of_text, ks, folds: as for ``recall``.
        collection, split: names of what is evaluated; runs on different ones are never compared.
        model: the model's fingerprint.
        command: the command line, kept for the record.
        image_ids, caption_ids: ids in the order of the embeddings; their digest tells equal splits from
            others.
        confidence, resamples, seed: of the percentile bootstrap over images.
    """
    return gallery_result(
        EmbeddingGallery(image, text),
        image_of_text,
        ks=ks,
        folds=folds,
        collection=collection,
        split=split,
        model=model,
        command=command,
        image_ids=image_ids,
        caption_ids=caption_ids,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def gallery_result(
    gallery: Gallery,
    image_of_text: ArrayLike,
    *,
    ks: Sequence[int] = RECALL_AT,
    folds: int = 1,
    collection: str = "",
    split: str = "",
    model: str = "",
    width: int | None = None,
    reranking: Reranking | None = None,
    command: str = "",
    image_ids: Sequence[str] | None = None,
    caption_ids: Sequence[str] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> RetrievalResult:
    """:func:`evaluate_retrieval` of any gallery.

    Args:
        width: that its embeddings were cut to, for the record.
        reranking: what put the best of it into order, if anything.
    """
    table = gallery_table(gallery, image_of_text, ks=ks, folds=folds)
    return RetrievalResult(
        table=table,
        intervals=bootstrap_intervals(table, confidence=confidence, resamples=resamples, seed=seed),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        collection=collection,
        split=split,
        model=model,
        width=width,
        reranking=reranking,
        command=command,
        image_digest=None if image_ids is None else ids_digest(image_ids),
        caption_digest=None if caption_ids is None else ids_digest(caption_ids),
    )
