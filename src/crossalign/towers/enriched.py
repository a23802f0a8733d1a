"""What both towers share: heads on top of a base encoding, SelfAlign's for context and CUSA's uni-modal one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from crossalign.alignment import ContextHead
from crossalign.encoding import Encoding
from crossalign.towers.projection import EmbeddingProjection
from crossalign.towers.settings import ContextUnits
from crossalign.towers.uni_modal import UniModalHead

__all__ = ["Enriched"]


class Enriched(nn.Module):
    """A tower whose base encoding may be enriched by a context head, and projected to ``embedding_size`` then.

    With ``uni_modal_size`` a uni-modal head makes a second embedding of that width, of the base one: before any context
    is appended.
    """

    def __init__(
        self,
        dim: int,
        context_head: bool,
        embedding_size: int | None = None,
        uni_modal_size: int | None = None,
        context_units: ContextUnits = "context",
    ) -> None:
        super().__init__()
        self.context_units = context_units
        self.uni_modal_head = None if uni_modal_size is None else UniModalHead(dim, uni_modal_size)
        self.context_head = ContextHead(dim) if context_head else None
        self.projection = None if embedding_size is None else EmbeddingProjection(dim, embedding_size)

    def enrich(self, base: Encoding, weight: float, keys_first: bool) -> Encoding:
        """Append the context head's vectors, times ``weight``, to the embedding (SelfAlign, enriched embedding).

        The image vector ends in ``[w mean key; w fused]`` and the text vector in ``[fused; mean key]``, so that the
        inner product adds ``w (mean key_v . fused_t + fused_v . mean key_t)``. With weight 0 nothing is appended.
        What comes out is projected to the tower's embedding size, where it has one. The uni-modal head's embedding
        becomes ``unimodal``.
        """
        if self.uni_modal_head is not None:
            base = replace(base, unimodal=self.uni_modal_head(base.embedding))
        if self.context_head is None:
            return base
        units = base.locals if self.context_units == "locals" else base.context
        guide, keys, fused, mean_key = self.context_head(units, base.mask)
        if weight == 0:
            return replace(base, aux={**base.aux, "guide": guide, "keys": keys})
        parts = [mean_key, fused] if keys_first else [fused, mean_key]
        tail = torch.cat([weight * part for part in parts], dim=-1)
        if base.embedding.dim() == 3:
            tail = tail[:, None].expand(-1, base.embedding.shape[1], -1)
        embedding = torch.cat([base.embedding, tail], dim=-1)
        if self.projection is not None:
            embedding = self.projection(embedding)
        return replace(base, embedding=embedding, aux={**base.aux, "guide": guide, "keys": keys})
