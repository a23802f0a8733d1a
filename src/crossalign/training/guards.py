"""Clear stops: a loss that is not finite, and a hinge that has collapsed."""

from __future__ import annotations

import torch
from torch import Tensor

from crossalign.data.batch import Batch
from crossalign.errors import CrossAlignError

__all__ = ["CollapseGuard", "check_finite"]


def check_finite(terms: dict[str, Tensor], gradient_norm: Tensor | None, step: int, batch: Batch) -> None:
    """Stop when a term or the gradient is not finite.

    Raises:
        CrossAlignError: names the step, the term and the batch's captions.
    """
    broken = [name for name, term in terms.items() if not torch.isfinite(term)]
    what = f"loss term '{broken[0]}'" if broken else ""
    if not broken and gradient_norm is not None and not torch.isfinite(gradient_norm):
        what = "the gradient"
    if what:
        shown = ", ".join(batch.caption_ids[:8]) + (", ..." if len(batch.caption_ids) > 8 else "")
        values = ", ".join(f"{name}={term.item():.4g}" for name, term in terms.items())
        raise CrossAlignError(
            f"step {step}: {what} is not finite ({values}); captions of the batch: {shown}; "
            "look for bad features, lower optimizer.learning_rate or use training.precision: 32"
        )


class CollapseGuard:
    """Stops a hinge run whose embeddings have all become one point.

    Every pair then scores the same and the hardest-negative loss stays at ``2 * B * margin``, from where it rarely
    returns (VSE++ needs its summed warm-up for this reason).

    Args:
        patience: steps in a row at the collapse value before the stop.
        count: steps in a row so far.
    """

    def __init__(self, patience: int = 100, count: int = 0) -> None:
        self.patience = patience
        self.count = count

    def check(self, collapsed: bool, step: int) -> None:
        """Take note of one step: whether its hinge is at the collapse value.

        Raises:
            CrossAlignError: so were the last ``patience`` steps.
        """
        self.count = self.count + 1 if collapsed else 0
        if self.count >= self.patience:
            raise CrossAlignError(
                f"step {step}: the hinge has stood at 2 * batch * margin for {self.patience} steps: all embeddings "
                "have become one point; raise objective.base.summed_epochs, lower optimizer.learning_rate, or use "
                "objective.base.kind: contrastive"
            )
