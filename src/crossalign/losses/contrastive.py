"""The contrastive loss (InfoNCE) with a learnable temperature and several positives a query."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.errors import CrossAlignError
from crossalign.losses.pairs import same_image, square
from crossalign.losses.temperature import clamped_temperature
from crossalign.masking import at_least_float32

__all__ = ["ContrastiveLoss"]


class ContrastiveLoss(nn.Module):
    """Cross-entropy of each query over the batch, both directions, targets spread evenly over the same image.

    CUSA (Huang et al., AAAI 2024), section 3.2. Every text of an image that is in the batch is a positive of
    it, and never a negative; without ``image_ids`` this is the loss of CLIP.

    Args:
        temperature: what the scores are divided by; the starting value where it is learnt.
        reduction: ``"standard"`` is the mean over the queries; ``"paper"`` divides by the batch size once
            more, as CUSA's published code does in its ``mean`` mode.
        learnable: train the temperature; it is kept between 0.01 and 0.1.

    Raises:
        CrossAlignError: the temperature is not positive, or outside the range of a learnable one.
    """

    LOWEST, HIGHEST = 0.01, 0.1

    def __init__(
        self,
        temperature: float = 0.05,
        reduction: Literal["standard", "paper"] = "standard",
        *,
        learnable: bool = True,
    ) -> None:
        super().__init__()
        if learnable and not self.LOWEST <= temperature <= self.HIGHEST:
            raise CrossAlignError(
                f"temperature is {temperature}; a learnable one lies in {self.LOWEST}..{self.HIGHEST}"
            )
        if temperature <= 0:
            raise CrossAlignError(f"temperature is {temperature}; give a positive number, usually 0.05")
        if reduction not in ("standard", "paper"):
            raise CrossAlignError(f"reduction is '{reduction}'; choose 'standard' or 'paper'")
        self.reduction = reduction
        self.temperature = nn.Parameter(torch.tensor(float(temperature)), requires_grad=learnable)

    def forward(self, image: Tensor, text: Tensor, image_ids: Tensor | None = None) -> Tensor:
        """The loss of matched embeddings ``(B, D)`` and ``(B, D)``, compared by cosine.

        Raises:
            CrossAlignError: the batches differ in size, or there is not one id a pair.
        """
        with torch.autocast(image.device.type, enabled=False):
            image = F.normalize(at_least_float32(image), dim=-1)
            text = F.normalize(at_least_float32(text), dim=-1)
            scores = image @ text.T
        return self.from_scores(scores, image_ids)

    def from_scores(self, scores: Tensor, image_ids: Tensor | None = None) -> Tensor:
        """The loss of scores ``(B, B)``, images along rows, texts along columns, matches on the diagonal.

        Args:
            scores: any similarity, for instance inner products of embeddings that are not of unit norm.
            image_ids: ``(B,)``; items of equal id show the same image.

        Raises:
            CrossAlignError: the scores are not square, or there is not one id a pair.
        """
        batch = square(scores)
        same = same_image(batch, image_ids, scores.device)
        temperature = clamped_temperature(self.temperature, self.LOWEST, self.HIGHEST)
        logits = at_least_float32(scores) / temperature
        targets = same.to(logits.dtype) / same.sum(dim=1, keepdim=True)
        texts = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
        images = -(targets * logits.T.log_softmax(dim=1)).sum(dim=1).mean()
        loss = (texts + images) / 2
        return loss / batch if self.reduction == "paper" else loss
