"""The base loss on embeddings cut to smaller widths."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.masking import at_least_float32
from crossalign.model import ModelConfig, RetrievalModel
from crossalign.objective.settings import MatryoshkaSettings
from crossalign.truncation import check_width, truncate, width_of_share

__all__ = ["Matryoshka"]


class Matryoshka:
    """The mean of a loss over several widths of the embeddings, so that they may be cut after training.

    Matryoshka representation learning (Kusupati et al., NeurIPS 2022), section 3, with equal weights; the full width
    is the base loss itself.

    Args:
        settings: the widths.
        model: whose embeddings are cut.

    Raises:
        CrossAlignError: a model without embeddings, or a width that its embeddings cannot be cut to.
    """

    def __init__(self, settings: MatryoshkaSettings, model: ModelConfig) -> None:
        if model.scorer is not None:
            raise CrossAlignError(
                "objective.matryoshka cuts embeddings, and model.scorer compares none; leave one of both out"
            )
        whole, self.parts = model.embedding_width, model.embedding_parts
        widths = [
            width_of_share(width, whole, self.parts) if width < 1 else int(width) for width in settings.widths
        ]
        # Shares of a small embedding may come to the same width, which then counts once.
        self.widths = tuple(dict.fromkeys(widths))
        for width in self.widths:
            try:
                check_width(width, whole, self.parts)
            except CrossAlignError as error:
                raise CrossAlignError(f"objective.matryoshka.widths: {error}") from None
            if width == whole:
                raise CrossAlignError(
                    f"objective.matryoshka.widths: {width} is the whole embedding, which the base loss sees anyway; "
                    "leave it out"
                )

    def __call__(
        self, loss: Callable[[Tensor, Tensor], Tensor], image: Encoding, text: Encoding, image_rows: Tensor
    ) -> Tensor:
        """The mean over the widths of ``loss(scores (B, B), image_rows)``.

        Args:
            image, text: encodings of U images and B texts.
            image_rows: ``(B,)`` row of each text's image.
        """
        with torch.autocast(image_rows.device.type, enabled=False):
            images, texts = at_least_float32(image.embedding), at_least_float32(text.embedding)
            losses = []
            for width in self.widths:
                scores = RetrievalModel.similarity(
                    truncate(images, width, self.parts), truncate(texts, width, self.parts)
                )
                losses.append(loss(scores.index_select(0, image_rows), image_rows))
        return torch.stack(losses).mean()
