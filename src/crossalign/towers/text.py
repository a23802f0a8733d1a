"""The text tower: captions, their token ids or their stored token states to an encoding."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.data.batch import TextInputs
from crossalign.encoders.hf import TextBackbone
from crossalign.encoders.unit_dropout import drop_units, replace_tokens
from crossalign.encoders.words import WordTokenizer
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.towers.encoders import build_state_encoder, build_word_encoder
from crossalign.towers.enriched import Enriched
from crossalign.towers.settings import CAMERATextSettings, ContextUnits, GRUSettings, TextTowerConfig

__all__ = ["TextTower"]


class TextTower(Enriched):
    """Captions to an encoding.

    Args:
        config: settings of the tower.
        dim: D, joint width.
        context_head: have a context head.
        context_weight: append its vectors to the embedding, unless it is 0.
        embedding_size: project the embedding with its context vectors to this width; None: leave it 3 D wide.
        uni_modal_size: have a uni-modal head of this width; None: none.
        context_units: what the context head reads, ``context`` or ``locals`` of the encoding.
        tokenizer: the word tokenizer of a ``gru`` encoder.
        backbone: the Hugging Face encoder whose token states any other encoder reads.
    """

    def __init__(
        self,
        config: TextTowerConfig,
        dim: int,
        context_head: bool,
        *,
        context_weight: float = 0.5,
        embedding_size: int | None = None,
        uni_modal_size: int | None = None,
        context_units: ContextUnits = "context",
        tokenizer: WordTokenizer | None = None,
        backbone: TextBackbone | None = None,
    ) -> None:
        super().__init__(dim, context_head, embedding_size, uni_modal_size, context_units)
        # The weight itself stands on the image side.
        self.appends_context = context_weight > 0
        self.config = config
        self.tokenizer = tokenizer
        self.backbone = backbone
        self.encoder: nn.Module
        if isinstance(config.encoder, GRUSettings):
            if tokenizer is None:
                raise ValueError("a gru encoder needs its tokenizer")
            self.encoder = build_word_encoder(config.encoder, tokenizer.size, dim)
        else:
            if backbone is None:
                raise ValueError("an encoder of token states needs its backbone")
            backbone.requires_grad_(config.train_backbone)
            self.encoder = build_state_encoder(config.encoder, backbone.dim, dim)

    def train(self, mode: bool = True) -> TextTower:
        """Training mode; a frozen backbone stays in evaluation mode (no dropout inside it)."""
        super().train(mode)
        if self.backbone is not None and not self.config.train_backbone:
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
            counts_padding = (
                isinstance(self.config.encoder, CAMERATextSettings) and self.config.encoder.count_padding
            )
            if counts_padding:
                tokens, mask = self._padded(tokens, mask)
            if features is None:
                with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train_backbone):
                    features = self.backbone(tokens, mask)
            kept = torch.ones_like(mask) if counts_padding else mask
            if self.training and self.config.word_dropout > 0:
                kept = drop_units(kept, self.config.word_dropout)
            encoding: Encoding = self.encoder(features, kept)
            if counts_padding:
                return replace(self._enriched(encoding), mask=kept & mask)
        else:
            places = None
            if self.training and self.config.word_dropout > 0:
                tokens, mask, places = _close_gaps(tokens, drop_units(mask, self.config.word_dropout))
            encoding = self.encoder(tokens, mask)
            if places is not None:
                encoding = replace(encoding, aux={**encoding.aux, "places": places})
        return self._enriched(encoding)

    def _enriched(self, encoding: Encoding) -> Encoding:
        return self.enrich(encoding, weight=float(self.appends_context), keys_first=False)

    def _padded(self, tokens: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and mask at the backbone's full length: its states of padding are read, too."""
        if tokens is None:
            raise CrossAlignError(
                "model.text.encoder.count_padding: stored token states hold no padding; leave the text store out"
            )
        assert self.backbone is not None
        missing = (0, self.backbone.config.max_length - tokens.shape[1])
        return F.pad(tokens, missing, value=self.backbone.padding_token), F.pad(mask, missing)

    def _mask_token(self) -> int:
        assert self.backbone is not None
        return self.backbone.mask_token


def _close_gaps(tokens: Tensor | None, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Move the kept tokens of each row to the front, in order: a GRU reads real tokens without holes.

    Returns:
        Tokens and mask ``(B, W')`` and the places ``(B, W')`` where the tokens stood.
    """
    assert tokens is not None
    order = torch.argsort((~kept).to(torch.int8), dim=1, stable=True)
    mask = torch.gather(kept, 1, order)
    tokens = torch.gather(tokens, 1, order).masked_fill(~mask, 0)
    width = int(mask.sum(dim=1).max())
    return tokens[:, :width], mask[:, :width], order[:, :width]
