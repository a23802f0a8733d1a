"""Image-text retrieval metrics of embeddings: recall, ranks, and a whole evaluation with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from crossalign.evaluation.bootstrap import bootstrap_intervals
from crossalign.evaluation.gallery import EmbeddingGallery, gallery_table
from crossalign.evaluation.inputs import Embeddings
from crossalign.evaluation.metrics import RECALL_AT, RankTable
from crossalign.evaluation.results import ResultSubject, RetrievalResult

__all__ = ["evaluate_retrieval", "rank_table", "recall", "result_of_ranks"]


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
    about: ResultSubject = ResultSubject(),
    *,
    ks: Sequence[int] = RECALL_AT,
    folds: int = 1,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> RetrievalResult:
    """Evaluate embeddings as ``recall`` does and keep the ranks, with a bootstrap interval for every metric.

    Args:
        image, text, image_of_text, ks, folds: as for ``recall``.
        about: names of what is evaluated, kept with the result.
        confidence, resamples, seed: of the percentile bootstrap over images.
    """
    table = rank_table(image, text, image_of_text, ks=ks, folds=folds)
    return result_of_ranks(table, about, confidence=confidence, resamples=resamples, seed=seed)


def result_of_ranks(
    table: RankTable,
    about: ResultSubject,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> RetrievalResult:
    """Ranks of any gallery as a result, with bootstrap intervals; arguments as for :func:`evaluate_retrieval`."""
    return RetrievalResult(
        table,
        bootstrap_intervals(table, confidence=confidence, resamples=resamples, seed=seed),
        confidence,
        resamples,
        seed,
        **vars(about),
    )
