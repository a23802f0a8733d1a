"""Soft labels from uni-modal teachers: how much alike other items are, in place of 'everything else is wrong'."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from crossalign.errors import CrossAlignError
from crossalign.losses.temperature import clamped_temperature
from crossalign.masking import at_least_float32
from crossalign.normalization import unit_norm

__all__ = ["CrossModalSoftLabels", "UniModalSoftLabels", "cosine_scores", "soft_label_loss"]

Mode = Literal["each", "add", "dot"]


def cosine_scores(queries: Tensor, keys: Tensor | None = None) -> Tensor:
    """Cosines ``(n, m)`` of vectors ``(n, D)`` and ``(m, D)``, or of the queries among themselves.

    In float32 (float64 for float64 inputs), also under autocast.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries = unit_norm(queries)
        return queries @ (queries if keys is None else unit_norm(keys)).T


def soft_label_loss(
    scores: Tensor,
    targets: Tensor,
    temperature: Tensor | float = 0.45,
    teacher_temperature: float = 1.0,
    query_counts: Tensor | None = None,
    key_counts: Tensor | None = None,
) -> Tensor:
    """Kullback-Leibler divergence ``KL(softmax(targets / tau_s) || softmax(scores / tau))``, the mean over queries.

    CUSA (Huang et al., AAAI 2024), equations 5 to 9. The targets have no gradient. Computed in float32 (float64 for
    float64 inputs), also under autocast.

    Args:
        scores: ``(n, m)``, how the student compares n queries with m keys.
        targets: ``(n, m)``, how the teacher does.
        temperature: tau, of the student.
        teacher_temperature: tau_s.
        query_counts: ``(n,)`` how often each query stands in the batch; ``None``: once.
        key_counts: ``(m,)`` how often each key does: equal to repeating its column.

    Raises:
        CrossAlignError: the matrices are not of the same shape ``(n, m)``.
    """
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise CrossAlignError(
            f"soft labels: scores are {tuple(scores.shape)} and the teacher's {tuple(targets.shape)}; "
            "both must be (queries, keys)"
        )
    with torch.autocast(scores.device.type, enabled=False):
        logits = at_least_float32(scores) / temperature
        wanted = at_least_float32(targets.detach()) / teacher_temperature
        if key_counts is not None:
            # Finite also for a key that stands there no time: its share is exactly zero then, and no infinities meet.
            copies = key_counts.to(logits.dtype).log().clamp(min=torch.finfo(logits.dtype).min / 4)
            logits, wanted = logits + copies, wanted + copies
        wanted = wanted.log_softmax(dim=1)
        # What a repeated key adds to both logarithms cancels out in their difference.
        missing = (wanted.exp() * (wanted - logits.log_softmax(dim=1))).sum(dim=1)
        if query_counts is None:
            return missing.mean()
        weights = query_counts.to(missing.dtype)
        return (missing * weights).sum() / weights.sum()


class _SoftLabels(nn.Module):
    """What both have: the teacher's temperature, and own ones that stay within a range."""

    LOWEST: float
    HIGHEST: float

    def __init__(self, temperature: float, teacher_temperature: float, learnable: bool) -> None:
        super().__init__()
        if learnable and not self.LOWEST <= temperature <= self.HIGHEST:
            raise CrossAlignError(
                f"temperature is {temperature}; a learnable one lies in {self.LOWEST:g}..{self.HIGHEST:g}"
            )
        for name, value in (("temperature", temperature), ("teacher_temperature", teacher_temperature)):
            if value <= 0:
                raise CrossAlignError(f"{name} is {value}; give a positive number")
        self.teacher_temperature = teacher_temperature

    def _own(self, temperature: nn.Parameter) -> Tensor:
        return clamped_temperature(temperature, self.LOWEST, self.HIGHEST)


class CrossModalSoftLabels(_SoftLabels):
    """Cross-modal soft labels (CSA): images and texts compare as their uni-modal teachers compare each of them.

    A text that would also suit the image is no plain negative then. CUSA (Huang et al., AAAI 2024), section 3.3.

    The paper's batch is B pairs: an image of several captions stands in it several times. ``image_rows`` gives the same
    loss of U images that stand there once, at less cost.

    Args:
        mode: ``"each"``: images among texts as the image teacher sees the texts' images, texts among images as the
            text teacher sees the images' texts; ``"add"``: both as the mean of both teachers; ``"dot"``: both as
            the geometric mean of what is positive in them.
        temperature: what scores are divided by; the starting value where it is learnt, one for both directions.
        teacher_temperature: what the teachers' cosines are divided by; fixed.
        learnable: train the temperature; it is kept between 0.10 and 0.99.

    Raises:
        CrossAlignError: unknown mode, a temperature that is not positive, or one outside the range of a learnable one.
    """

    LOWEST, HIGHEST = 0.10, 0.99

    def __init__(
        self,
        mode: Mode = "each",
        temperature: float = 0.45,
        teacher_temperature: float = 1.0,
        *,
        learnable: bool = True,
    ) -> None:
        super().__init__(temperature, teacher_temperature, learnable)
        if mode not in ("each", "add", "dot"):
            raise CrossAlignError(f"mode is '{mode}'; choose 'each', 'add' or 'dot'")
        self.mode = mode
        self.temperature = nn.Parameter(torch.tensor(float(temperature)), requires_grad=learnable)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        teacher_image: Tensor,
        teacher_text: Tensor,
        image_rows: Tensor | None = None,
    ) -> Tensor:
        """The loss of embeddings ``(U, D)`` and ``(B, D)``, compared by cosine; a scalar.

        Args:
            teacher_image: ``(U, T)`` the images' vectors of their teacher, of any norm.
            teacher_text: ``(B, T')`` the texts'.
            image_rows: ``(B,)`` row of each text's image; ``None``: image i and text i are a pair.

        Raises:
            CrossAlignError: the numbers of images, texts and teachers' vectors do not fit together.
        """
        return self.from_scores(
            cosine_scores(image, text), cosine_scores(teacher_image), cosine_scores(teacher_text), image_rows
        )

    def from_scores(
        self,
        scores: Tensor,
        teacher_image_scores: Tensor,
        teacher_text_scores: Tensor,
        image_rows: Tensor | None = None,
    ) -> Tensor:
        """The loss of ready scores, of a scorer or of embeddings of several views; a scalar.

        Args:
            scores: ``(U, B)`` of every image with every text.
            teacher_image_scores: ``(U, U)`` of the image teacher.
            teacher_text_scores: ``(B, B)`` of the text teacher.
            image_rows: as for :meth:`forward`.

        Raises:
            CrossAlignError: the shapes do not fit together.
        """
        _check_shapes(scores.shape[-2:], teacher_image_scores, teacher_text_scores, image_rows)
        temperatures = self._own(self.temperature), self.teacher_temperature
        if image_rows is None:
            image_rows = torch.arange(scores.shape[1], device=scores.device)
        of_pairs = scores.index_select(0, image_rows)
        images = teacher_image_scores.index_select(1, image_rows)
        if self.mode == "each":
            counts = image_rows.bincount(minlength=len(scores))
            texts = soft_label_loss(scores, images, *temperatures, query_counts=counts)
            return (texts + soft_label_loss(of_pairs.T, teacher_text_scores, *temperatures)) / 2
        images = at_least_float32(images.index_select(0, image_rows))
        told = at_least_float32(teacher_text_scores)
        targets = (images + told) / 2 if self.mode == "add" else (images.relu() * told.relu()).sqrt()
        # Both teachers' scores are symmetric, so the same targets serve both directions.
        texts = soft_label_loss(of_pairs, targets, *temperatures)
        return (texts + soft_label_loss(of_pairs.T, targets, *temperatures)) / 2


class UniModalSoftLabels(_SoftLabels):
    """Uni-modal soft labels (USA): images compare with images, and texts with texts, as for their teachers.

    CUSA (Huang et al., AAAI 2024), section 3.4. It stands on embeddings of heads of their own, which then also answer
    queries within a modality.

    Args:
        temperature: what cosines are divided by; the starting value where it is learnt, one for images, one for texts.
        teacher_temperature: what the teachers' cosines are divided by; fixed.
        learnable: train the temperatures; they are kept between 0.10 and 1.00.

    Raises:
        CrossAlignError: a temperature that is not positive, or one outside the range of a learnable one.
    """

    LOWEST, HIGHEST = 0.10, 1.00

    def __init__(
        self, temperature: float = 0.45, teacher_temperature: float = 1.0, *, learnable: bool = True
    ) -> None:
        super().__init__(temperature, teacher_temperature, learnable)
        self.image_temperature = nn.Parameter(torch.tensor(float(temperature)), requires_grad=learnable)
        self.text_temperature = nn.Parameter(torch.tensor(float(temperature)), requires_grad=learnable)

    def forward(
        self,
        uni_image: Tensor,
        uni_text: Tensor,
        teacher_image: Tensor,
        teacher_text: Tensor,
        image_rows: Tensor | None = None,
    ) -> Tensor:
        """The loss of uni-modal embeddings ``(U, D)`` and ``(B, D')``, compared by cosine; a scalar.

        Args:
            teacher_image: ``(U, T)`` the images' vectors of their teacher, of any norm.
            teacher_text: ``(B, T')`` the texts'.
            image_rows: ``(B,)`` row of each text's image: an image counts as often as it has texts in the batch;
                ``None``: once.

        Raises:
            CrossAlignError: the numbers of images, texts and teachers' vectors do not fit together.
        """
        return self.from_scores(
            cosine_scores(uni_image),
            cosine_scores(uni_text),
            cosine_scores(teacher_image),
            cosine_scores(teacher_text),
            image_rows,
        )

    def from_scores(
        self,
        image_scores: Tensor,
        text_scores: Tensor,
        teacher_image_scores: Tensor,
        teacher_text_scores: Tensor,
        image_rows: Tensor | None = None,
    ) -> Tensor:
        """The loss of ready scores; a scalar.

        Args:
            image_scores, teacher_image_scores: ``(U, U)`` of images with images.
            text_scores, teacher_text_scores: ``(B, B)`` of texts with texts.
            image_rows: as for :meth:`forward`.

        Raises:
            CrossAlignError: the shapes do not fit together.
        """
        sizes = (len(image_scores), len(text_scores))
        _check_shapes(sizes, teacher_image_scores, teacher_text_scores, image_rows, paired=False)
        counts = None if image_rows is None else image_rows.bincount(minlength=sizes[0])
        images = soft_label_loss(
            image_scores,
            teacher_image_scores,
            self._own(self.image_temperature),
            self.teacher_temperature,
            counts,
            counts,
        )
        texts = soft_label_loss(
            text_scores, teacher_text_scores, self._own(self.text_temperature), self.teacher_temperature
        )
        return (images + texts) / 2


def _check_shapes(
    sizes: tuple[int, ...],
    teacher_image: Tensor,
    teacher_text: Tensor,
    image_rows: Tensor | None,
    *,
    paired: bool = True,
) -> None:
    """Refuse what does not belong to one batch of U images and B texts."""
    images, texts = sizes
    for name, scores, count in (("image", teacher_image, images), ("text", teacher_text, texts)):
        if scores.shape != (count, count):
            raise CrossAlignError(
                f"soft labels: the {name} teacher's scores are {tuple(scores.shape)} for {count} {name}s; "
                f"give ({count}, {count})"
            )
    if image_rows is None and paired and images != texts:
        raise CrossAlignError(
            f"soft labels: {images} images and {texts} texts; give image_rows, the row of each text's image"
        )
    if image_rows is not None and image_rows.shape != (texts,):
        raise CrossAlignError(
            f"soft labels: image_rows is {tuple(image_rows.shape)} for {texts} texts; give one row a text"
        )
