"""A tower: everything one modality goes through, from its inputs to its encoding."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from crossalign.alignment import ContextHead
from crossalign.data.batch import ImageInputs, TextInputs
from crossalign.encoders.backbone import BackboneConfig, ImageBackbone
from crossalign.encoders.detector import DetectorConfig
from crossalign.encoders.hf import TextBackbone, TextBackboneConfig
from crossalign.encoders.unit_dropout import drop_units, replace_tokens
from crossalign.encoders.units import UnitEncoder
from crossalign.encoders.words import GRUEncoder, WordTokenizer
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.settings import Settings

__all__ = ["ImageTower", "ImageTowerConfig", "TextTower", "TextTowerConfig"]

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class UnitSettings(Settings):
    """How units (regions or token features) become one vector."""

    projection: Literal["linear", "mlp", "pooled_mlp"] = "mlp"
    pooling: Literal["mean", "max", "gpo"] = "gpo"
    hidden: int | None = Field(default=None, gt=0, description="width of the perceptron; default dim / 2")
    dropout: Probability = 0.0
    normalize_input: bool = False


class ImageTowerConfig(UnitSettings):
    """The image side. Without a backbone it takes imported features and cannot encode raw photos."""

    backbones: tuple[BackboneConfig, ...] = Field(
        default=(), description="the maps of several backbones stand side by side along the feature axis"
    )
    train_backbone: bool = False
    region_dropout: Probability = Field(
        default=0.0, description="probability of leaving a region out of a step"
    )
    feature_dim: int | None = Field(
        default=None, gt=0, description="width of imported features; known from the store"
    )
    regions: Literal["grid", "boxes"] = Field(default="grid", description="known from the store")
    detector: DetectorConfig | None = Field(
        default=None,
        description="finds the boxes of raw photos, where regions are boxes; known from the store",
    )


class WordSettings(Settings):
    """A word-level BiGRU trained from scratch."""

    kind: Literal["gru"] = "gru"
    word_dim: int = Field(default=300, gt=0)
    bidirectional: bool = True
    pooling: Literal["mean", "max", "gpo", "last"] = "gpo"
    min_count: int = Field(default=4, ge=1, description="rarer words become <unk>")
    max_length: int = Field(default=64, gt=0)
    dropout: Probability = 0.0


class HuggingFaceSettings(UnitSettings):
    """A Hugging Face encoder with a projection on its token states."""

    kind: Literal["huggingface"] = "huggingface"
    backbone: TextBackboneConfig | None = Field(
        default=None, description="known from the store, where there is one"
    )
    train_backbone: bool = False


class TextTowerConfig(Settings):
    """The text side."""

    encoder: WordSettings | HuggingFaceSettings = Field(default=WordSettings(), discriminator="kind")
    word_dropout: Probability = Field(default=0.0, description="probability of leaving a word out of a step")
    word_masking: Probability = Field(
        default=0.0, description="probability of replacing a word by the unknown token"
    )


class _Enriched(nn.Module):
    """What both towers share: the context head of Contextual Relation Alignment on top of a base encoding."""

    def __init__(self, dim: int, context_head: bool) -> None:
        super().__init__()
        self.context_head = ContextHead(dim) if context_head else None

    def enrich(self, base: Encoding, weight: float, keys_first: bool) -> Encoding:
        """Append the context head's vectors to the embedding (SelfAlign, enriched embedding).

        The image vector ends in ``[0.5 mean key; 0.5 fused]`` and the text vector in ``[fused; mean key]``, so that
        the inner product adds ``0.5 (mean key_v . fused_t + fused_v . mean key_t)``.
        """
        if self.context_head is None:
            return base
        guide, keys, fused, mean_key = self.context_head(base.context, base.mask)
        parts = [mean_key, fused] if keys_first else [fused, mean_key]
        tail = torch.cat([weight * part for part in parts], dim=-1)
        if base.embedding.dim() == 3:
            tail = tail[:, None].expand(-1, base.embedding.shape[1], -1)
        return Encoding(
            embedding=torch.cat([base.embedding, tail], dim=-1),
            locals=base.locals,
            context=base.context,
            mask=base.mask,
            aux={**base.aux, "guide": guide, "keys": keys},
        )


class ImageTower(_Enriched):
    """Photos or their stored features to an encoding.

    Args:
        config: settings of the tower.
        dim: D, joint width.
        context_head: append the context head's vectors to the embedding.
        load_weights: read the backbones' weights files; false where a state dict follows.
    """

    def __init__(
        self, config: ImageTowerConfig, dim: int, context_head: bool, *, load_weights: bool = True
    ) -> None:
        super().__init__(dim, context_head)
        backbones = [ImageBackbone(backbone, load_weights=load_weights) for backbone in config.backbones]
        # Theirs have the checksums of the weights filled in.
        self.config = config.model_copy(update={"backbones": tuple(built.config for built in backbones)})
        self.backbones = nn.ModuleList(backbones)
        if not config.train_backbone:
            self.backbones.requires_grad_(False)
        feature_dim = sum(backbone.dim for backbone in backbones) or config.feature_dim
        if not feature_dim:
            raise CrossAlignError(
                "image: neither backbones nor feature_dim is set; give the recipe one of both"
            )
        self.feature_dim: int = feature_dim
        if len({backbone.input for backbone in config.backbones}) > 1:
            raise CrossAlignError(
                "image.backbones: their pre-processing differs; extract with the same input settings"
            )
        self.encoder = UnitEncoder(
            feature_dim,
            dim,
            projection=config.projection,
            pooling=config.pooling,
            hidden=config.hidden,
            dropout=config.dropout,
            normalize_input=config.normalize_input,
        )

    def train(self, mode: bool = True) -> ImageTower:
        """Training mode; frozen backbones stay in evaluation mode (their batch norms must not move)."""
        super().train(mode)
        if not self.config.train_backbone:
            self.backbones.eval()
        return self

    def units(self, inputs: ImageInputs) -> tuple[Tensor, Tensor]:
        """Region features ``(B, N, C)`` and mask ``(B, N)``, from the store or through the backbones."""
        if inputs.features is not None:
            if inputs.mask is None:
                raise ValueError("stored features need their mask")
            if inputs.features.shape[1] == 0:
                # No image of the batch has a region: what follows expects one unit at least, if only a padded one.
                return F.pad(inputs.features, (0, 0, 0, 1)), F.pad(inputs.mask, (0, 1))
            return inputs.features, inputs.mask
        if not self.backbones or inputs.pixels is None:
            raise CrossAlignError(
                "this model was trained on imported features and has no backbone: it cannot encode raw photos; "
                "train on features made by 'crossalign extract'"
            )
        boxes = None
        if inputs.boxes is not None and inputs.mask is not None:
            boxes = [row[keep] for row, keep in zip(inputs.boxes, inputs.mask, strict=True)]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train_backbone):
            maps = [backbone(inputs.pixels, boxes, inputs.visible) for backbone in self.backbones]
        return torch.cat([features for features, _, _ in maps], dim=-1), maps[0][1]

    def region_boxes(self, inputs: ImageInputs) -> Tensor:
        """Boxes of the regions ``(B, N, 4)``, corners relative to the photo, in ``[0, 1]``.

        Raises:
            CrossAlignError: imported features without boxes.
        """
        if inputs.pixels is None and inputs.boxes is not None:
            return inputs.boxes
        if not self.backbones:
            raise CrossAlignError("the regions of these imported features have no boxes")
        given = inputs.pixels if inputs.pixels is not None else inputs.features
        assert given is not None
        seen = inputs.visible
        if seen is None:
            seen = torch.tensor([0.0, 0.0, 1.0, 1.0], device=given.device).expand(len(given), -1)
        if inputs.boxes is not None:
            # The backbones put the whole of what they see before the boxes.
            return torch.cat([seen[:, None], inputs.boxes], dim=1)
        backbone = self.backbones[0]
        assert isinstance(backbone, ImageBackbone)
        origin, extent = seen[:, None, :2], seen[:, None, 2:] - seen[:, None, :2]
        return origin.repeat(1, 1, 2) + backbone.grid_boxes().to(given.device) * extent.repeat(1, 1, 2)

    def forward(self, inputs: ImageInputs) -> Encoding:
        """Encode B images."""
        features, mask = self.units(inputs)
        if self.training and self.config.region_dropout > 0:
            mask = drop_units(mask, self.config.region_dropout)
        return self.enrich(self.encoder(features, mask), weight=0.5, keys_first=True)


class TextTower(_Enriched):
    """Captions to an encoding.

    Args:
        config: settings of the tower.
        dim: D, joint width.
        context_head: append the context head's vectors to the embedding.
        tokenizer: the word tokenizer of a ``gru`` encoder.
        backbone: the Hugging Face encoder of a ``huggingface`` encoder.
    """

    def __init__(
        self,
        config: TextTowerConfig,
        dim: int,
        context_head: bool,
        *,
        tokenizer: WordTokenizer | None = None,
        backbone: TextBackbone | None = None,
    ) -> None:
        super().__init__(dim, context_head)
        self.config = config
        self.tokenizer = tokenizer
        self.backbone = backbone
        settings = config.encoder
        self.encoder: nn.Module
        if isinstance(settings, WordSettings):
            if tokenizer is None:
                raise ValueError("a gru encoder needs its tokenizer")
            self.encoder = GRUEncoder(
                tokenizer.size,
                dim,
                word_dim=settings.word_dim,
                pooling=settings.pooling,
                bidirectional=settings.bidirectional,
                dropout=settings.dropout,
            )
        else:
            if backbone is None:
                raise ValueError("a huggingface encoder needs its backbone")
            backbone.requires_grad_(settings.train_backbone)
            self.encoder = UnitEncoder(
                backbone.dim,
                dim,
                projection=settings.projection,
                pooling=settings.pooling,
                hidden=settings.hidden,
                dropout=settings.dropout,
                normalize_input=settings.normalize_input,
            )

    @property
    def trains_backbone(self) -> bool:
        """Whether a Hugging Face encoder is fine-tuned."""
        return isinstance(self.config.encoder, HuggingFaceSettings) and self.config.encoder.train_backbone

    def train(self, mode: bool = True) -> TextTower:
        """Training mode; a frozen backbone stays in evaluation mode (no dropout inside it)."""
        super().train(mode)
        if self.backbone is not None and not self.trains_backbone:
            self.backbone.eval()
        return self

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids ``(B, W)`` and mask ``(B, W)``."""
        if self.backbone is not None:
            return self.backbone.tokenize(texts)
        assert self.tokenizer is not None
        return self.tokenizer(texts)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span ``(start, end)`` of each token of one text; ``(0, 0)`` for special tokens."""
        if self.backbone is not None:
            return self.backbone.offsets(text)
        assert self.tokenizer is not None
        return self.tokenizer.offsets(text)

    def forward(self, inputs: TextInputs) -> Encoding:
        """Encode B captions."""
        mask, tokens, features = inputs.mask, inputs.tokens, inputs.features
        if self.training and tokens is not None and self.config.word_masking > 0:
            replacement = self.tokenizer.unknown if self.tokenizer is not None else self._mask_token()
            tokens = replace_tokens(tokens, mask, self.config.word_masking, replacement)
        if self.backbone is not None:
            if features is None:
                with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains_backbone):
                    features = self.backbone(tokens, mask)
            units, kept = features, mask
            if self.training and self.config.word_dropout > 0:
                kept = drop_units(mask, self.config.word_dropout)
            encoding: Encoding = self.encoder(units, kept)
        else:
            if self.training and self.config.word_dropout > 0:
                tokens, mask = _close_gaps(tokens, drop_units(mask, self.config.word_dropout))
            encoding = self.encoder(tokens, mask)
        return self.enrich(encoding, weight=1.0, keys_first=False)

    def _mask_token(self) -> int:
        assert self.backbone is not None
        return self.backbone.mask_token


def _close_gaps(tokens: Tensor | None, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Move the kept tokens of each row to the front, in order: a GRU reads real tokens without holes."""
    assert tokens is not None
    order = torch.argsort((~kept).to(torch.int8), dim=1, stable=True)
    mask = torch.gather(kept, 1, order)
    tokens = torch.gather(tokens, 1, order).masked_fill(~mask, 0)
    width = int(mask.sum(dim=1).max())
    return tokens[:, :width], mask[:, :width]
