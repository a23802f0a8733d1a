"""Settings of both towers: where units come from and which encoder makes an embedding of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from crossalign.encoders.backbone import BackboneConfig
from crossalign.encoders.detector import DetectorConfig
from crossalign.encoders.dual.settings import DualEncoderSettings
from crossalign.encoders.hf import TextBackboneConfig
from crossalign.scorers.settings import CrossEncoderSettings, ScorerSettings
from crossalign.settings import Settings

__all__ = [
    "CAMERAImageSettings",
    "CAMERATextSettings",
    "ContextUnits",
    "GRUSettings",
    "ImageTowerConfig",
    "ModelConfig",
    "PooledSettings",
    "RegionKind",
    "TextTowerConfig",
    "UniModalHeadSettings",
    "VSRNSettings",
]

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
RegionKind = Literal["grid", "boxes", "both"]
ContextUnits = Literal["context", "locals"]


class PooledSettings(Settings):
    """Units are projected one by one and pooled: VSE++ and VSE-infinity."""

    kind: Literal["pooled"] = Field(default="pooled", description="units projected one by one, then pooled")
    projection: Literal["linear", "mlp", "pooled_mlp"] = Field(
        default="mlp",
        description="`linear`; `mlp`: a residual two-layer perceptron beside it, unit by unit; `pooled_mlp`: the "
        "perceptron on the mean of the units, beside the pooled linear map",
    )
    pooling: Literal["mean", "max", "gpo"] = Field(
        default="gpo",
        description="how the units become one vector; `gpo`: learnt weights of the sorted values",
    )
    hidden: int | None = Field(default=None, gt=0, description="width of the perceptron; default dim / 2")
    activation: Literal["gelu", "relu"] = Field(default="gelu", description="of the perceptron")
    dropout: Probability = Field(
        default=0.0, description="probability of dropping an input feature, in all units of an item at once"
    )
    normalize_input: bool = Field(
        default=False, description="scale every unit to the same norm first, so that backbones share a scale"
    )


class VSRNSettings(Settings):
    """Regions in relation to each other, read by a GRU: VSRN."""

    kind: Literal["vsrn"] = Field(
        default="vsrn", description="relations between regions, then a GRU over them"
    )
    layers: int = Field(default=4, ge=1, description="relation layers")
    norm_axis: Literal["features", "regions"] = Field(
        default="features",
        description="what regions are normalised along; `regions`: over the image's regions, as the published code",
    )
    normalize_projection: bool = Field(
        default=True,
        description="normalise regions before the relation layers; VSRN's Flickr30K model does not",
    )
    embedding_norm: bool = Field(
        default=False, description="batch normalisation of the embedding; only VSRN's Flickr30K model has it"
    )


class CAMERAImageSettings(Settings):
    """Gated self-attention between regions, summarised in several views: CAMERA."""

    kind: Literal["camera"] = Field(
        default="camera", description="gated self-attention between regions, then several views of the image"
    )
    heads: int = Field(default=8, ge=1, description="heads of the self-attention; they divide dim")
    views: int = Field(default=12, ge=1, description="vectors an image; its best one counts")
    channels: int = Field(
        default=128, ge=1, description="outputs of each of the summarisation's convolutions"
    )
    positions: bool = Field(default=True, description="gate regions by where their boxes are")
    dropout: Probability = Field(default=0.0, description="dropout of the self-attention")
    norm_axis: Literal["features", "regions"] = Field(
        default="features",
        description="what regions are normalised along; `regions`: over the image's regions, as the published code",
    )


class CAMERATextSettings(Settings):
    """Gated self-attention between the token states of a backbone: CAMERA."""

    kind: Literal["camera"] = Field(
        default="camera", description="gated self-attention between token states, a perceptron, their mean"
    )
    heads: int = Field(default=8, ge=1, description="heads of the self-attention; they divide dim")
    dropout: Probability = Field(
        default=0.0, description="dropout of the self-attention and of the perceptron"
    )
    norm_axis: Literal["features", "words", "none"] = Field(
        default="features",
        description="what projected words are normalised along; `words`: over the caption's words, as the "
        "published code with SelfAlign; `none`: as without it",
    )
    count_padding: bool = Field(
        default=False,
        description="pad every caption to the backbone's max_length and read the padding like words, as the published "
        "code; for converted models",
    )


class GRUSettings(Settings):
    """A word-level GRU trained from scratch, with a vocabulary learnt from the training captions."""

    kind: Literal["gru"] = Field(default="gru", description="a word-level GRU with a vocabulary of its own")
    word_dim: int = Field(default=300, gt=0, description="width of a word's embedding")
    projection: bool = Field(
        default=True,
        description="map word embeddings into the joint space before the GRU reads them; without it `locals` are the "
        "GRU's states",
    )
    bidirectional: bool = Field(
        default=True, description="read the words backwards, too, and average both directions"
    )
    pooling: Literal["mean", "max", "gpo", "last"] = Field(
        default="gpo", description="how the states become one vector; `last`: the last state, as in VSE++"
    )
    min_count: int = Field(default=4, ge=1, description="rarer words become <unk>")
    splitting: Literal["plain", "treebank"] = Field(
        default="plain",
        description="what a word is; `treebank`: t-shirt is one word and doesn't are two, as NLTK has it",
    )
    borders: bool = Field(
        default=False, description="begin a caption with <start> and end it with <end>, as published code"
    )
    max_length: int = Field(default=64, gt=0, description="words of a caption at most; longer ones are cut")
    dropout: Probability = Field(
        default=0.0, description="probability of dropping a feature of a word's embedding"
    )


class ImageTowerConfig(Settings):
    """The image side. Without a backbone it takes imported features and cannot encode raw photos."""

    backbones: tuple[BackboneConfig, ...] = Field(
        default=(), description="the maps of several backbones stand side by side along the feature axis"
    )
    train_backbone: bool = Field(
        default=False, description="fine-tune the backbones from pixels; not with stored features"
    )
    region_dropout: Probability = Field(
        default=0.0, description="probability of leaving a region out of a step"
    )
    feature_dim: int | None = Field(
        default=None, gt=0, description="width of imported features; known from the store"
    )
    regions: RegionKind = Field(
        default="grid",
        description="what stored features describe, `both`: cells and then boxes; known from the store",
    )
    detector: DetectorConfig | None = Field(
        default=None,
        description="finds the boxes of raw photos, where boxes are regions; known from the store",
    )
    encoder: PooledSettings | VSRNSettings | CAMERAImageSettings = Field(
        default=PooledSettings(), discriminator="kind", description="what makes an embedding of the regions"
    )


class TextTowerConfig(Settings):
    """The text side: a ``gru`` reads words by itself, any other encoder the token states of a backbone."""

    backbone: TextBackboneConfig | None = Field(
        default=None, description="a Hugging Face encoder; known from the store, where there is one"
    )
    train_backbone: bool = Field(
        default=False, description="fine-tune the backbone; not with stored token states"
    )
    word_dropout: Probability = Field(default=0.0, description="probability of leaving a word out of a step")
    word_masking: Probability = Field(
        default=0.0, description="probability of replacing a word by the unknown token"
    )
    encoder: GRUSettings | PooledSettings | CAMERATextSettings = Field(
        default=GRUSettings(), discriminator="kind", description="what makes an embedding of the words"
    )

    @property
    def reads_words(self) -> bool:
        """Whether the encoder reads words by itself, without a backbone."""
        return isinstance(self.encoder, GRUSettings)

    @model_validator(mode="after")
    def _words_need_no_backbone(self) -> TextTowerConfig:
        if self.reads_words and (self.backbone is not None or self.train_backbone):
            raise ValueError(
                f"encoder.kind: {self.encoder.kind} reads words by itself; leave backbone and train_backbone out"
            )
        return self


class UniModalHeadSettings(Settings):
    """A second embedding a tower, for images among images and texts among texts (CUSA); `objective.usa` trains it."""

    size: int | None = Field(default=None, gt=0, description="its width; null: dim")


class ModelConfig(Settings):
    """Everything needed to build the model: two towers, and a scorer where pairs are scored together."""

    dim: int = Field(default=256, gt=0, description="D, joint width")
    context_head: bool = Field(
        default=False, description="SelfAlign's context head, which Contextual Relation Alignment trains"
    )
    context_weight: float = Field(
        default=0.5,
        ge=0,
        description="of the context vectors in the similarity; they make the embedding 3 D wide. 0 leaves them out: "
        "the head then serves the loss alone",
    )
    context_units: ContextUnits = Field(
        default="context",
        description="units that the context head reads: after the encoder's context reasoning, as in the paper, or "
        "`locals`: of unit norm, before it, as Local Concept Alignment reads them",
    )
    embedding_size: int | None = Field(
        default=None,
        gt=0,
        description="project the embedding with its context vectors to this width, by one learnt linear map a tower; "
        "at most 3 D. null: it stays 3 D wide",
    )
    scorer: ScorerSettings | None = Field(
        default=None,
        description="an interactive model that scores a pair from its regions and words in context; `kind` chooses it. "
        "null: the inner product of the embeddings",
    )
    uni_modal_head: UniModalHeadSettings | None = Field(
        default=None,
        description="uni-modal heads on both towers, `{}` with their defaults, for image-to-image and text-to-text "
        "retrieval; null: without",
    )
    dual_encoder: DualEncoderSettings | None = Field(
        default=None,
        description="CLIP, SigLIP or BLIP as both towers, fine-tuned; dim is then the width of its embeddings, and "
        "`image` and `text` are left out. null: the towers of `image` and `text`",
    )
    image: ImageTowerConfig = ImageTowerConfig()
    text: TextTowerConfig = TextTowerConfig()

    @property
    def enriched(self) -> bool:
        """Whether context vectors are part of the embedding."""
        return self.context_head and self.context_weight > 0

    @property
    def embedding_width(self) -> int:
        """Numbers of an embedding."""
        return self.embedding_size or self.dim * (3 if self.enriched else 1)

    @property
    def uni_modal_width(self) -> int | None:
        """Numbers of a uni-modal embedding; None without uni-modal heads."""
        return None if self.uni_modal_head is None else self.uni_modal_head.size or self.dim

    @property
    def embedding_parts(self) -> int:
        """Vectors that stand one after the other in an embedding, each matched with one of the other modality."""
        return 3 if self.enriched and self.embedding_size is None else 1

    @model_validator(mode="after")
    def _a_projection_has_something_to_project(self) -> ModelConfig:
        if self.embedding_size is None:
            return self
        if not self.enriched:
            raise ValueError(
                "embedding_size projects the context vectors with the embedding, and this one has none; set "
                "context_head: true and a context_weight above 0, or set dim instead"
            )
        if self.embedding_size > 3 * self.dim:
            raise ValueError(
                f"embedding_size is {self.embedding_size}, wider than the {3 * self.dim} numbers it is made of (3 x "
                "dim); choose a smaller one, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _units_are_chosen_for_a_context_head(self) -> ModelConfig:
        if self.context_units == "locals" and (not self.context_head or self.dual_encoder is not None):
            lacking = "has no units before context" if self.context_head else "is without context_head: true"
            raise ValueError(
                f"context_units: locals says what the context head reads, and this model {lacking}; set "
                "context_units: context, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _a_dual_encoder_is_both_towers(self) -> ModelConfig:
        if self.dual_encoder is not None and (
            self.image != ImageTowerConfig() or self.text != TextTowerConfig()
        ):
            raise ValueError("dual_encoder is both towers; leave image and text out")
        if isinstance(self.scorer, CrossEncoderSettings) and (self.dual_encoder is None or self.context_head):
            raise ValueError(
                "scorer: cross_encoder is a part of dual_encoder (BLIP); set dual_encoder, and leave context_head out"
            )
        return self

    @model_validator(mode="after")
    def _a_scorer_leaves_embeddings_alone(self) -> ModelConfig:
        if self.scorer is not None and self.enriched:
            raise ValueError(
                "scorer compares regions with words, context_weight widens the embedding, which it never sees; "
                "set context_weight: 0, or leave one out"
            )
        return self
