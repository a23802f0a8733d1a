"""The towers of a pretrained dual encoder: patches are regions, tokens are words, embeddings the pretrained ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossalign.data.batch import ImageInputs, TextInputs
from crossalign.encoders.dual.parts import DualEncoder
from crossalign.encoders.inputs import InputSettings
from crossalign.encoders.map_units import grid_boxes
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.normalization import unit_norm
from crossalign.towers.enriched import Enriched
from crossalign.towers.settings import ImageTowerConfig, ModelConfig, TextTowerConfig

__all__ = ["DualImageTower", "DualTextTower"]


class DualImageTower(Enriched):
    """Photos to an encoding whose base embedding is the pretrained one, of unit norm.

    Args:
        config: settings of the model.
        parts: the dual encoder.

    Attributes:
        input: how a photo becomes pixels, as the weights were trained.
    """

    def __init__(self, config: ModelConfig, parts: DualEncoder) -> None:
        super().__init__(config.dim, config.context_head, config.embedding_size, config.uni_modal_width)
        self.config: ImageTowerConfig = config.image
        self.context_weight = config.context_weight
        self.dual = parts.image
        self.input: InputSettings = parts.input
        self.matched = parts.matcher is not None
        self.units = _units(parts, self.dual.states_dim)

    @property
    def region_count(self) -> int:
        """Regions of every image."""
        rows, columns = self.dual.grid
        return rows * columns + int(self.matched)

    def region_boxes(self, inputs: ImageInputs) -> Tensor:
        """Boxes of the patches ``(B, N, 4)``, corners relative to the photo; a class token's is all that is seen."""
        assert inputs.pixels is not None
        seen = inputs.visible
        if seen is None:
            seen = torch.tensor([0.0, 0.0, 1.0, 1.0], device=inputs.pixels.device).expand(
                len(inputs.pixels), -1
            )
        origin, extent = seen[:, None, :2], seen[:, None, 2:] - seen[:, None, :2]
        cells = grid_boxes(*self.dual.grid, None, self.matched).to(seen.device)
        return origin.repeat(1, 1, 2) + cells * extent.repeat(1, 1, 2)

    def forward(self, inputs: ImageInputs) -> Encoding:
        """Encode B images.

        Raises:
            CrossAlignError: the inputs are stored features.
        """
        if inputs.pixels is None:
            raise CrossAlignError("a pretrained dual encoder reads photos; leave the image features out")
        embedding, states = self.dual(inputs.pixels)
        if self.matched:
            return _matched(states, None)
        context = self.dual.project(states) if self.units is None else self.units(states)
        mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        return self.enrich(_encoding(embedding, context, mask), weight=self.context_weight, keys_first=True)


class DualTextTower(Enriched):
    """Captions to an encoding whose base embedding is the pretrained one, of unit norm.

    Args:
        config: settings of the model.
        parts: the dual encoder.
    """

    def __init__(self, config: ModelConfig, parts: DualEncoder) -> None:
        super().__init__(config.dim, config.context_head, config.embedding_size, config.uni_modal_width)
        self.config: TextTowerConfig = config.text
        # The weight itself stands on the image side.
        self.appends_context = config.context_weight > 0
        self.dual = parts.text
        self.dual_tokenizer = parts.tokenizer
        # Neither a vocabulary of its own nor a backbone beside the dual encoder.
        self.tokenizer = None
        self.backbone = None
        self.matched = parts.matcher is not None
        self.units = _units(parts, self.dual.states_dim)

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids ``(B, W)`` and mask ``(B, W)`` of real ones."""
        return self.dual_tokenizer(texts)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span ``(start, end)`` of each token of one text; ``(0, 0)`` for special tokens."""
        return self.dual_tokenizer.offsets(text)

    def forward(self, inputs: TextInputs) -> Encoding:
        """Encode B captions; special tokens are no words.

        Raises:
            CrossAlignError: the inputs are stored token states.
        """
        if inputs.tokens is None:
            raise CrossAlignError("a pretrained dual encoder reads texts; leave the text features out")
        embedding, states = self.dual(inputs.tokens, inputs.mask)
        if self.matched:
            return _matched(states, inputs.mask)
        context = self.dual.project(states) if self.units is None else self.units(states)
        words = self.dual_tokenizer.words(inputs.tokens, inputs.mask)
        encoding = _encoding(embedding, context, words)
        return self.enrich(encoding, weight=float(self.appends_context), keys_first=False)


def _units(parts: DualEncoder, states_dim: int) -> nn.Linear | None:
    return nn.Linear(states_dim, parts.width) if parts.settings.units == "learnt" else None


def _encoding(embedding: Tensor, context: Tensor, mask: Tensor) -> Encoding:
    """Unit norms are taken in float32, as similarities are."""
    return Encoding(
        embedding=unit_norm(embedding),
        locals=unit_norm(context),
        context=context,
        mask=mask,
    )


def _matched(states: Tensor, mask: Tensor | None) -> Encoding:
    """What a cross-encoder reads: it has no embedding, its first unit stands there."""
    real = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device) if mask is None else mask
    return Encoding(
        embedding=states[:, 0],
        locals=unit_norm(states),
        context=states,
        mask=real,
        aux={"scored": states},
    )
