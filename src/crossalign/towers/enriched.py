"""What both towers share: SelfAlign's context head on top of a base encoding."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from crossalign.alignment import ContextHead
from crossalign.encoding import Encoding

__all__ = ["Enriched"]


class Enriched(nn.Module):
    """A tower whose base encoding may be enriched by a context head."""

    def __init__(self, dim: int, context_head: bool) -> None:
        super().__init__()
        self.context_head = ContextHead(dim) if context_head else None

    def enrich(self, base: Encoding, weight: float, keys_first: bool) -> Encoding:
        """Append the context head's vectors, times ``weight``, to the embedding (SelfAlign, enriched embedding).

        The image vector ends in ``[w mean key; w fused]`` and the text vector in ``[fused; mean key]``, so that the
        inner product adds ``w (mean key_v . fused_t + fused_v . mean key_t)``. With weight 0 nothing is appended.
        """
        if self.context_head is None:
            return base
        guide, keys, fused, mean_key = self.context_head(base.context, base.mask)
        if weight == 0:
            return replace(base, aux={**base.aux, "guide": guide, "keys": keys})
        parts = [mean_key, fused] if keys_first else [fused, mean_key]
        tail = torch.cat([weight * part for part in parts], dim=-1)
        if base.embedding.dim() == 3:
            tail = tail[:, None].expand(-1, base.embedding.shape[1], -1)
        return replace(
            base,
            embedding=torch.cat([base.embedding, tail], dim=-1),
            aux={**base.aux, "guide": guide, "keys": keys},
        )
