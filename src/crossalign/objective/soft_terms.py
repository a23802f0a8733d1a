"""What soft labels are given of a batch: the model's own scores, uni-modal cosines, and the teachers'."""

from __future__ import annotations

from torch import Tensor

from crossalign.alignment import CrossModalSoftLabels, UniModalSoftLabels, cosine_scores
from crossalign.data.batch import TeacherFeatures
from crossalign.encoding import Encoding

__all__ = ["soft_label_terms"]


def soft_label_terms(
    csa: CrossModalSoftLabels | None,
    usa: UniModalSoftLabels | None,
    scores: Tensor,
    image: Encoding,
    text: Encoding,
    image_rows: Tensor,
    teachers: TeacherFeatures,
) -> dict[str, Tensor]:
    """The terms ``csa`` and ``usa`` of U images and B texts, where they are asked for.

    Cross-modal soft labels stand on the scores that retrieval goes by: the inner product of embeddings, which is the
    paper's cosine where these are of unit norm, the best view, or a scorer's.

    Args:
        scores: ``(U, B)`` of every image with every text.
        image_rows: ``(B,)`` row of each text's image.
    """
    # Both terms look at the same teachers: their cosines are computed once.
    seen, told = cosine_scores(teachers.image), cosine_scores(teachers.text)
    terms: dict[str, Tensor] = {}
    if csa is not None:
        terms["csa"] = csa.from_scores(scores, seen, told, image_rows)
    if usa is not None:
        assert image.unimodal is not None
        assert text.unimodal is not None
        images, texts = cosine_scores(image.unimodal), cosine_scores(text.unimodal)
        terms["usa"] = usa.from_scores(images, texts, seen, told, image_rows)
    return terms
