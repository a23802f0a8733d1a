"""CAMERA's encoders: self-attention with gates on both sides, several views of an image on the one."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from crossalign.encoders.agsa import AdaptiveGatingSelfAttention
from crossalign.encoders.positions import BoxPositions
from crossalign.encoders.summarization import MultiViewSummarization, summarize
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.masking import RealUnits, masked_mean
from crossalign.normalization import batch_norm, normalize_units, unit_norm

__all__ = ["CAMERAImageEncoder", "CAMERATextEncoder"]


class CAMERAImageEncoder(nn.Module):
    """Regions and their boxes to V unit-norm views: projection, gated self-attention, summarisation.

    CAMERA (Qu et al., ACM MM 2020). The similarity with a caption is the largest over the views.

    Args:
        input_dim: C, width of the regions as they come.
        dim: D, joint width.
        heads: heads of the self-attention, a divisor of D.
        views: V.
        channels: outputs of each of the summarisation's convolutions.
        positions: gate what the self-attention sees by the regions' boxes.
        dropout: dropout of the self-attention.
        norm_axis: ``"features"`` gives regions unit norm before and after the self-attention; ``"regions"``
            divides each feature by its norm over the image's regions, as the published code does.

    Raises:
        CrossAlignError: the heads do not divide the width, a size is not positive, or an unknown ``norm_axis``.
    """

    def __init__(
        self,
        input_dim: int,
        dim: int,
        *,
        heads: int = 8,
        views: int = 12,
        channels: int = 128,
        positions: bool = True,
        dropout: float = 0.0,
        norm_axis: Literal["features", "regions"] = "features",
    ) -> None:
        super().__init__()
        if norm_axis not in ("features", "regions"):
            raise CrossAlignError(f"CAMERA: norm_axis is '{norm_axis}'; choose 'features' or 'regions'")
        self.along: Literal["features", "units"] = "features" if norm_axis == "features" else "units"
        self.projection = _projection(input_dim, dim)
        self.positions = BoxPositions(dim) if positions else None
        self.attention = AdaptiveGatingSelfAttention(dim, heads, dropout)
        self.summarization = MultiViewSummarization(dim, views, channels)

    def forward(
        self, units: Tensor, mask: Tensor, boxes: Tensor | None = None, aspect: Tensor | None = None
    ) -> Encoding:
        """Encode regions.

        Args:
            units: ``(B, N, C)``.
            mask: ``(B, N)`` bool, true where a region is real.
            boxes: ``(B, N, 4)`` corners ``x0 y0 x1 y1`` relative to the photo, in ``[0, 1]``.
            aspect: ``(B,)`` width over height of each photo; ``None``: as if all were square.

        Returns:
            ``embedding`` ``(B, V, D)``, zero for an image without real regions; ``context`` are the regions
            after the self-attention; ``aux["summary_logits"]`` ``(B, N, V)`` feeds the diversity loss.

        Raises:
            CrossAlignError: the boxes are missing.
        """
        if self.positions is not None and boxes is None:
            raise CrossAlignError(
                "CAMERA: the regions have no boxes; take features with boxes or set positions to false"
            )
        real = RealUnits.of(units, mask)
        projected = normalize_units(self.projection(real.pack(units)), real, self.along)
        gates = None
        if self.positions is not None and boxes is not None:
            gates = self.positions.gates(boxes, real, aspect)
        context = self.attention.attend(projected, real, mask, gates)
        normed = normalize_units(context, real, self.along)
        logits = real.unpack(self.summarization.logits(normed, real))
        return Encoding(
            embedding=unit_norm(summarize(real.unpack(normed), logits, mask)),
            locals=real.unpack(unit_norm(projected)),
            context=real.unpack(context),
            mask=mask,
            aux={"summary_logits": logits},
        )


class CAMERATextEncoder(nn.Module):
    """Token states to one unit-norm vector: projection, gated self-attention, perceptron, mean.

    CAMERA (Qu et al., ACM MM 2020). The perceptron's output is batch-normalised and added to the
    words in context; their mean is the embedding.

    Args:
        input_dim: C, width of the token states.
        dim: D, joint width.
        heads: heads of the self-attention, a divisor of D.
        dropout: dropout of the self-attention and of the perceptron.
        norm_axis: ``"features"`` gives projected words unit norm; ``"words"`` divides each feature by its norm
            over the caption's words, as the published code does with SelfAlign; ``"none"`` leaves them as they
            are, as the published code does without it.

    Raises:
        CrossAlignError: the heads do not divide the width, or an unknown ``norm_axis``.
    """

    def __init__(
        self,
        input_dim: int,
        dim: int,
        *,
        heads: int = 8,
        dropout: float = 0.0,
        norm_axis: Literal["features", "words", "none"] = "features",
    ) -> None:
        super().__init__()
        if norm_axis not in ("features", "words", "none"):
            raise CrossAlignError(f"CAMERA: norm_axis is '{norm_axis}'; choose 'features', 'words' or 'none'")
        self.norm_axis = norm_axis
        self.projection = _projection(input_dim, dim)
        self.attention = AdaptiveGatingSelfAttention(dim, heads, dropout)
        self.perceptron = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim)
        )
        self.norm = nn.BatchNorm1d(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Encoding:
        """Encode token states ``(B, W, C)`` with mask ``(B, W)``; a text without real words has embedding zero.

        The encoding's ``context`` are the words after the self-attention.
        """
        real = RealUnits.of(states, mask)
        projected = self.projection(real.pack(states))
        if self.norm_axis != "none":
            along: Literal["features", "units"] = "features" if self.norm_axis == "features" else "units"
            projected = normalize_units(projected, real, along)
        context = self.attention.attend(projected, real, mask, None)
        words = context + self.dropout(batch_norm(self.norm, self.perceptron(context)))
        return Encoding(
            embedding=unit_norm(masked_mean(real.unpack(words), mask)),
            locals=real.unpack(unit_norm(projected)),
            context=real.unpack(context),
            mask=mask,
        )


def _projection(input_dim: int, dim: int) -> nn.Linear:
    linear = nn.Linear(input_dim, dim)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
