"""An image network of the timm library as a source of units: photos in, grid cells or pooled boxes out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from crossalign.encoders.inputs import InputSettings
from crossalign.encoders.map_units import box_units, grid_boxes, grid_units
from crossalign.encoders.timm_models import create_network
from crossalign.encoders.weights import load_strictly, read_weights, state_digest
from crossalign.errors import CrossAlignError
from crossalign.files import file_digest
from crossalign.settings import Settings

__all__ = ["PRETRAINED", "BackboneConfig", "ImageBackbone", "load_weights_of"]

PRETRAINED = "pretrained"


class BackboneConfig(Settings):
    """Everything needed to build an image network and to use it as it was used before."""

    name: str = Field(description="name of a timm model")
    model_args: dict[str, Any] = Field(default={}, description="further arguments of the timm model")
    weights: str | None = Field(
        default=None,
        description="a .safetensors or .pth file, `pretrained`: what timm downloads, or null: random",
    )
    weights_sha256: str | None = Field(
        default=None, description="checksum of the weights; filled in when loaded"
    )
    layer: int | None = Field(
        default=None, description="inner layer to read, by timm's index; null: the last one"
    )
    input: InputSettings
    grid: int | None = Field(default=4, ge=1, description="cells a side; null: the map as it comes")
    global_cell: bool = Field(default=True, description="put the mean of the whole map first")


class ImageBackbone(nn.Module):
    """A timm network without its classifier, whose feature map is cut into units.

    In evaluation mode it extracts features; in a tower it can be trained from pixels. Layers behind
    ``config.layer`` are removed.

    Args:
        config: settings; the attribute ``config`` has the checksum of the weights filled in.
        load_weights: read the weights; false where a state dict follows.

    Attributes:
        dim: C, width of the units.
        map_size: height and width of the feature map for the configured input.
        dropped: names of the classifier's tensors in the weights file, which are not needed.

    Raises:
        CrossAlignError: unknown model or arguments, an input size or layer that it does not have, or weights
            that do not fit or have changed.
    """

    def __init__(self, config: BackboneConfig, *, load_weights: bool = True) -> None:
        super().__init__()
        # timm's networks share their methods by convention, not by a type.
        self.network: Any = create_network(
            config.name, config.model_args, pretrained=load_weights and config.weights == PRETRAINED
        )
        self.dropped: tuple[str, ...] = ()
        self.config = self._load(config) if load_weights and config.weights is not None else config
        self._layers = self._prune(config.layer) if config.layer is not None else None
        self.dim, *size = self._probe()
        self.map_size = (size[0], size[1])

    def feature_map(self, pixels: Tensor) -> Tensor:
        """The map ``(B, C, h, w)`` of pixels ``(B, 3, H, W)``; class and register tokens are left out."""
        if self._layers is not None:
            inner: Tensor = self.network.forward_intermediates(
                pixels, indices=self._layers, intermediates_only=True
            )[-1]
            return inner
        output: Tensor = self.network.forward_features(pixels)
        if output.dim() == 3:
            return self._tokens_to_map(output, pixels.shape[-2] / pixels.shape[-1])
        if getattr(self.network, "output_fmt", "NCHW") == "NHWC":
            return output.permute(0, 3, 1, 2)
        return output

    def forward(
        self,
        pixels: Tensor,
        boxes: list[Tensor] | None = None,
        visible: Tensor | None = None,
        *,
        cells: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Units of a batch of pre-processed photos.

        Args:
            pixels: ``(B, 3, H, W)``.
            boxes: for each photo ``(n_i, 4)`` corners ``x0 y0 x1 y1`` relative to it, or None for cells.
            visible: ``(B, 4)`` the part of each photo that its pixels show (``InputSettings.visible``); None
                where it is the whole photo.
            cells: put the grid's cells before the boxes.

        Returns:
            units ``(B, N, C)``, mask ``(B, N)`` and boxes ``(B, N, 4)`` relative to the photo. Before boxes come
            the cells or, without them, the whole map.
        """
        feature_map = self.feature_map(pixels)
        grid = None
        if boxes is None or cells:
            units = grid_units(feature_map, self.config.grid, self.config.global_cell)
            grid = units, self.grid_boxes(*feature_map.shape[-2:]).to(units.device)
        if boxes is None:
            assert grid is not None
            units, places = grid
            placed = places.expand(len(units), -1, -1)
            mask = torch.ones(units.shape[:2], dtype=torch.bool, device=units.device)
        else:
            if visible is not None:
                boxes = [_into(box.to(part), part) for box, part in zip(boxes, visible, strict=True)]
            units, mask, placed = box_units(feature_map, boxes, grid)
        if visible is not None:
            visible = visible.to(placed)
            origin, extent = visible[:, None, :2], visible[:, None, 2:] - visible[:, None, :2]
            placed = origin.repeat(1, 1, 2) + placed * extent.repeat(1, 1, 2)
        return units, mask, placed * mask[:, :, None]

    def grid_boxes(self, height: int | None = None, width: int | None = None) -> Tensor:
        """Boxes ``(N, 4)`` of the cells, relative to the input; by default for the configured input size."""
        return grid_boxes(
            height or self.map_size[0], width or self.map_size[1], self.config.grid, self.config.global_cell
        )

    def _load(self, config: BackboneConfig) -> BackboneConfig:
        assert config.weights is not None
        digest, self.dropped = load_weights_of(
            self.network, config.name, config.weights, config.weights_sha256
        )
        return config.model_copy(update={"weights_sha256": digest})

    def _prune(self, layer: int) -> list[int]:
        if not hasattr(self.network, "prune_intermediate_layers"):
            raise CrossAlignError(
                f"{self.config.name}: timm gives no inner layers of it; leave the layer out"
            )
        try:
            kept: list[int] = self.network.prune_intermediate_layers(
                [layer], prune_norm=True, prune_head=True
            )
        except (AssertionError, IndexError) as error:
            raise CrossAlignError(f"{self.config.name}: has no layer {layer} ({error})") from None
        return kept

    def _probe(self) -> tuple[int, int, int]:
        """Channels, height and width of the map, found by one run: timm's own numbers are not reliable."""
        size = self.config.input.size
        self.eval()
        try:
            with torch.no_grad():
                channels, height, width = self.feature_map(torch.zeros(1, 3, size, size)).shape[1:]
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CrossAlignError(
                f"{self.config.name}: cannot take photos of {size} x {size} pixels ({reason}); "
                "choose another size, or give the model the argument img_size"
            ) from None
        self.train()
        return channels, height, width

    def _tokens_to_map(self, tokens: Tensor, ratio: float) -> Tensor:
        prefix = getattr(self.network, "num_prefix_tokens", 0)
        tokens = tokens[:, prefix:]
        count = tokens.shape[1]
        height = round(math.sqrt(count * ratio))
        if height == 0 or count % height or round(height / ratio) != count // height:
            raise CrossAlignError(f"{self.config.name}: its {count} tokens are not a map; choose a layer")
        return tokens.transpose(1, 2).unflatten(2, (height, count // height))


def load_weights_of(
    network: nn.Module, name: str, weights: str, expected: str | None = None
) -> tuple[str, tuple[str, ...]]:
    """Give a timm network the weights of a file, or keep those that timm downloaded (:data:`PRETRAINED`).

    Returns:
        Their checksum, and the names of the classifier's tensors in the file, which are not needed.

    Raises:
        CrossAlignError: no such file, weights that do not fit, or others than the expected ones.
    """
    dropped: tuple[str, ...] = ()
    if weights == PRETRAINED:
        digest = state_digest(network.state_dict())
    else:
        path = Path(weights)
        state = read_weights(path)
        digest = file_digest(path)
        stated: Any = getattr(network, "pretrained_cfg", {})
        classifiers = stated.get("classifier") or ()
        classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
        dropped = load_strictly(network, state, classifiers, f"{path} ({name})")
    if expected not in (None, digest):
        raise CrossAlignError(
            f"{weights}: not the weights that were used before (their checksum begins with {digest[:12]}, not "
            f"{str(expected)[:12]}); give the original ones"
        )
    return digest, dropped


def _into(boxes: Tensor, part: Tensor) -> Tensor:
    """Boxes relative to a photo, relative to a part of it."""
    origin, extent = part[:2].repeat(2), (part[2:] - part[:2]).repeat(2)
    return ((boxes - origin) / extent).clamp(0, 1)
