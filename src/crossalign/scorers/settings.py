"""Settings of a model's scorer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from crossalign.scorers.attention import RawFeatureNorm
from crossalign.scorers.scan import Aggregation, Direction
from crossalign.settings import Settings

__all__ = [
    "CrossEncoderSettings",
    "SAFSettings",
    "SCANSettings",
    "SGRAFSettings",
    "SGRSettings",
    "ScorerSettings",
]


class SCANSettings(Settings):
    """Stacked cross attention: words look at regions, or regions at words (SCAN)."""

    kind: Literal["scan"] = Field(default="scan", description="stacked cross attention, without parameters")
    direction: Direction = Field(
        default="t2i", description="who looks at whom; `t2i`: words at regions, `i2t`: regions at words"
    )
    raw_feature_norm: RawFeatureNorm = Field(
        default="clipped_l2norm",
        description="how a unit's inner products are normalised along those that look at it",
    )
    aggregation: Aggregation = Field(default="LogSumExp", description="how cosines become one score")
    lambda_softmax: float = Field(
        default=9.0, gt=0, description="inverse temperature of the attention; published 9, 4 for `i2t`"
    )
    lambda_lse: float = Field(
        default=6.0, gt=0, description="inverse temperature of `LogSumExp`; published 6, 5 or 20 for `i2t`"
    )


class _SimilaritySettings(Settings):
    similarity_dim: int = Field(default=256, gt=0, description="width of a vector of similarity")
    regions: int = Field(
        default=36,
        gt=0,
        description="most regions of an image: each place has statistics of its own, as published",
    )
    dropout: float = Field(
        default=0.4, ge=0, lt=1, description="dropout in the self-attentions that make the global vectors"
    )


class SGRSettings(_SimilaritySettings):
    """Similarity graph reasoning (SGRAF)."""

    kind: Literal["sgr"] = Field(
        default="sgr", description="vectors of similarity inform each other in steps"
    )
    steps: int = Field(default=3, ge=1, description="steps of reasoning")


class SAFSettings(_SimilaritySettings):
    """Similarity attention filtration (SGRAF)."""

    kind: Literal["saf"] = Field(
        default="saf", description="a gate for each vector of similarity, and their sum"
    )


class SGRAFSettings(_SimilaritySettings):
    """The mean of SGR's and SAF's scores on the same towers."""

    kind: Literal["sgraf"] = Field(default="sgraf", description="the mean of both, on the same towers")
    steps: int = Field(default=3, ge=1, description="SGR's steps of reasoning")


class CrossEncoderSettings(Settings):
    """Image-text matching by the cross-encoder of model.dual_encoder (BLIP)."""

    kind: Literal["cross_encoder"] = Field(
        default="cross_encoder",
        description="the text network of model.dual_encoder looks at the image (BLIP's image-text matching)",
    )
    pairs_at_once: int = Field(default=64, ge=1, description="pairs that go through the network at a time")


ScorerSettings = Annotated[
    SCANSettings | SGRSettings | SAFSettings | SGRAFSettings | CrossEncoderSettings,
    Field(discriminator="kind"),
]
