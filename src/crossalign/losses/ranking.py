"""The hinge ranking loss, with the hardest or with all negatives of a batch."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from crossalign.errors import CrossAlignError
from crossalign.losses.pairs import same_image, square
from crossalign.masking import at_least_float32

__all__ = ["HingeRankingLoss"]


class HingeRankingLoss(nn.Module):
    """Ask every matched pair to score higher than its negatives by a margin; the sum over the batch.

    Both directions count: a text among the texts of an image, an image among the images of a text. VSE++
    (Faghri et al., BMVC 2018), equation 6 with ``"hardest"``, equation 5 with ``"all"``.

    Args:
        margin: by how much a match has to win, in units of the score.
        negatives: ``"hardest"`` counts the worst negative of each query, ``"all"`` every one.

    Raises:
        CrossAlignError: the margin is not positive, or ``negatives`` is neither word.
    """

    def __init__(self, margin: float = 0.2, negatives: Literal["hardest", "all"] = "hardest") -> None:
        super().__init__()
        if margin <= 0:
            raise CrossAlignError(f"margin is {margin}; give a positive number, usually 0.2")
        if negatives not in ("hardest", "all"):
            raise CrossAlignError(f"negatives is '{negatives}'; choose 'hardest' or 'all'")
        self.margin = margin
        self.negatives = negatives

    def forward(self, scores: Tensor, image_ids: Tensor | None = None) -> Tensor:
        """The loss of scores ``(B, B)``, images along rows, texts along columns, matches on the diagonal.

        Args:
            scores: similarity of every image with every text.
            image_ids: ``(B,)``; items of equal id show the same image and are not each other's negatives.

        Raises:
            CrossAlignError: the scores are not square, or there is not one id a pair.
        """
        excluded = same_image(square(scores), image_ids, scores.device)
        scores = at_least_float32(scores)
        matches = scores.diagonal()
        texts = (self.margin + scores - matches.unsqueeze(1)).relu().masked_fill(excluded, 0.0)
        images = (self.margin + scores - matches.unsqueeze(0)).relu().masked_fill(excluded, 0.0)
        if self.negatives == "hardest":
            texts, images = texts.max(dim=1).values, images.max(dim=0).values
        return texts.sum() + images.sum()

    def collapse_value(self, batch_size: int) -> float:
        """The loss of a model that gives every pair the same score: every negative costs the margin."""
        counted = 1 if self.negatives == "hardest" else batch_size - 1
        return 2 * batch_size * self.margin * counted if batch_size > 1 else 0.0

    def collapsed(self, loss: float, batch_size: int, tolerance: float = 1e-3) -> bool:
        """Whether ``loss`` lies at the collapse value, within a relative tolerance.

        Training with hardest negatives can fall into the state in which all embeddings are equal, and does
        not leave it again. One batch proves nothing: a loss that stays there does.
        """
        value = self.collapse_value(batch_size)
        return value > 0 and abs(loss - value) <= tolerance * value
