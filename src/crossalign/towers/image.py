"""The image tower: photos or their stored features to an encoding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.data.batch import ImageInputs
from crossalign.encoders.backbone import ImageBackbone
from crossalign.encoders.inputs import InputSettings
from crossalign.encoders.unit_dropout import drop_units
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.towers.encoders import build_region_encoder
from crossalign.towers.enriched import Enriched
from crossalign.towers.settings import CAMERAImageSettings, ContextUnits, ImageTowerConfig

__all__ = ["ImageTower"]


class ImageTower(Enriched):
    """Photos or their stored features to an encoding.

    Args:
        config: settings of the tower.
        dim: D, joint width.
        context_head: have a context head.
        context_weight: append its vectors to the embedding with this weight; 0: not at all.
        embedding_size: project the embedding with its context vectors to this width; None: leave it 3 D wide.
        uni_modal_size: have a uni-modal head of this width; None: none.
        context_units: what the context head reads, ``context`` or ``locals`` of the encoding.
        load_weights: read the backbones' weights files; false where a state dict follows.
    """

    def __init__(
        self,
        config: ImageTowerConfig,
        dim: int,
        context_head: bool,
        *,
        context_weight: float = 0.5,
        embedding_size: int | None = None,
        uni_modal_size: int | None = None,
        context_units: ContextUnits = "context",
        load_weights: bool = True,
    ) -> None:
        super().__init__(dim, context_head, embedding_size, uni_modal_size, context_units)
        self.context_weight = context_weight
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
        self.encoder = build_region_encoder(config.encoder, feature_dim, dim)

    @property
    def input(self) -> InputSettings | None:
        """How a photo becomes pixels; None without a backbone."""
        return self.config.backbones[0].input if self.config.backbones else None

    @property
    def region_count(self) -> int:
        """Regions of every image, where they are the cells of a backbone's grid."""
        backbone = self.backbones[0]
        assert isinstance(backbone, ImageBackbone)
        return len(backbone.grid_boxes())

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
            cells = self.config.regions == "both"
            maps = [
                backbone(inputs.pixels, boxes, inputs.visible, cells=cells) for backbone in self.backbones
            ]
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
        if inputs.boxes is not None and self.config.regions != "both":
            # The backbones put the whole of what they see before the boxes.
            return torch.cat([seen[:, None], inputs.boxes], dim=1)
        backbone = self.backbones[0]
        assert isinstance(backbone, ImageBackbone)
        origin, extent = seen[:, None, :2], seen[:, None, 2:] - seen[:, None, :2]
        cells = origin.repeat(1, 1, 2) + backbone.grid_boxes().to(given.device) * extent.repeat(1, 1, 2)
        return cells if inputs.boxes is None else torch.cat([cells, inputs.boxes], dim=1)

    def forward(self, inputs: ImageInputs) -> Encoding:
        """Encode B images."""
        features, mask = self.units(inputs)
        if self.training and self.config.region_dropout > 0:
            mask = drop_units(mask, self.config.region_dropout)
        if isinstance(self.config.encoder, CAMERAImageSettings) and self.config.encoder.positions:
            encoding = self.encoder(features, mask, self.region_boxes(inputs), inputs.aspect)
        else:
            encoding = self.encoder(features, mask)
        return self.enrich(encoding, weight=self.context_weight, keys_first=True)
