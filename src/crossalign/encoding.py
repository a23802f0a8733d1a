"""What a tower makes of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

__all__ = ["Encoding", "Space"]

# Which embeddings are compared: of images with texts, or of a modality within itself.
Space = Literal["cross", "uni"]


@dataclass(frozen=True)
class Encoding:
    """One modality of a batch after its tower. B items, N units (regions or words), D joint width, V views.

    Attributes:
        embedding: ``(B, D')`` or ``(B, V, D')``, the retrieval vector, compared by inner product everywhere.
        locals: ``(B, N, D)`` unit-norm units after one projection, before any context.
        context: ``(B, N, D)`` the same units after the encoder's context reasoning.
        mask: ``(B, N)`` bool, true where a unit is real.
        unimodal: ``(B, E)`` unit-norm embedding for retrieval within the modality, where a head for it exists.
        aux: named tensors that a head hands to the objective. ``guide`` ``(B, D)`` and ``keys`` ``(B, N, D)`` come
            from the context head and feed Contextual Relation Alignment; ``summary_logits`` ``(B, N, V)`` come from
            CAMERA's image encoder and feed the diversity loss; ``places`` ``(B, N)`` int64 say which token each word
            is, where dropped ones have left their places; ``scored`` ``(B, N, W)`` are what a cross-encoder reads
            instead of units of unit norm.
    """

    embedding: Tensor
    locals: Tensor
    context: Tensor
    mask: Tensor
    unimodal: Tensor | None = None
    aux: Mapping[str, Tensor] = field(default_factory=dict)
