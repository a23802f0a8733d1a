"""Similarity graph reasoning: the similarities of a pair inform each other (SGRAF, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.scorers.summary import xavier_linear

__all__ = ["ReasoningStep"]


class ReasoningStep(nn.Module):
    """One step on a fully connected graph: ``relu(output(softmax(query(x) key(x)^T) x))``.

    Computed with fewer products than written: ``query(x_i) . key(x_j)`` is ``(x_i A + u) . x_j`` with
    ``A = Wq^T Wk`` and ``u = bq Wk``, up to what is equal for all j, and that a softmax does not see. For the same
    reason ``key`` has no bias.

    Args:
        width: K, width of the nodes.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = xavier_linear(width, width)
        self.key = xavier_linear(width, width, bias=False)
        self.output = xavier_linear(width, width)

    def maps(self) -> tuple[Tensor, Tensor]:
        """A matrix ``(2K, K)`` that makes of a node what it asks, ``x A``, and what it tells, and u ``(K,)``.

        A node tells what the output layer makes of it, before the edges weigh it: the same as after.
        """
        to_query = self.key.weight.T
        return torch.cat([to_query @ self.query.weight, self.output.weight]), to_query @ self.query.bias

    def forward(self, nodes: Tensor, maps: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """All nodes ``(P, N, K)`` of P graphs after the step; ``maps`` where :meth:`maps` is known already."""
        matrix, offset = maps or self.maps()
        asking, told = (nodes @ matrix.T).chunk(2, dim=2)
        edges = _softmax(torch.bmm(asking, nodes.transpose(1, 2)) + (nodes @ offset).unsqueeze(1))
        return torch.baddbmm(self.output.bias, edges, told).relu_()

    def first(self, nodes: Tensor, maps: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """The first node ``(P, K)`` alone after the step."""
        matrix, offset = maps or self.maps()
        asking = F.linear(nodes[:, :1], matrix[: nodes.shape[2]], offset)
        edges = _softmax(torch.bmm(asking, nodes.transpose(1, 2)))
        return self.output(torch.bmm(edges, nodes).squeeze(1)).relu_()


def _softmax(logits: Tensor) -> Tensor:
    """Along the last axis; for axes as short as a caption faster than the library's."""
    weights = (logits - logits.detach().amax(dim=-1, keepdim=True)).exp_()
    return weights / weights.sum(dim=-1, keepdim=True)
