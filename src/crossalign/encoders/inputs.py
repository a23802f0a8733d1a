"""Pre-processing of photos: every number explicit, so that stored features and raw photos agree."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, field_validator
from torch import Tensor

from crossalign.settings import Settings

__all__ = ["InputSettings"]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class InputSettings(Settings):
    """How a photo becomes the input of an image network.

    ``resize``: ``squash`` brings the whole photo to ``size`` x ``size`` pixels whatever its shape; ``crop``
    scales the shorter side to ``size`` and keeps the centre; ``shortest`` does so in whole pixels, as torchvision
    does for CLIP, and ``shortest_floor`` as transformers does. Channel values in [0, 1] are then shifted by ``mean``
    and divided by ``std``.
    """

    size: int = Field(ge=1, description="side of the square input in pixels")
    mean: tuple[float, float, float] = Field(description="subtracted from the channels, which lie in 0 to 1")
    std: tuple[float, float, float] = Field(description="what the channels are divided by afterwards")
    interpolation: Literal["bilinear", "bicubic", "nearest"] = Field(
        default="bicubic", description="filter of the resizing"
    )
    resize: Literal["squash", "crop", "shortest", "shortest_floor"] = Field(
        default="squash",
        description="`squash`: the whole photo into a square; `crop`: its central square; `shortest`: the same in "
        "whole pixels, as open_clip; `shortest_floor`: as transformers, which rounds the place of the cut down",
    )

    @field_validator("std")
    @classmethod
    def _positive(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) <= 0:
            raise ValueError("standard deviations must be positive")
        return value

    def visible(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a photo that the network sees, as a box relative to the photo."""
        if self.resize == "squash":
            return 0.0, 0.0, 1.0, 1.0
        if self.resize in ("shortest", "shortest_floor"):
            wide, high, first, upper = self._cut(width, height)
            return first / wide, upper / high, (first + self.size) / wide, (upper + self.size) / high
        side = min(width, height)
        left, top = (1 - side / width) / 2, (1 - side / height) / 2
        return left, top, 1 - left, 1 - top

    def resized(self, image: Image.Image) -> Tensor:
        """Channel values ``(3, size, size)`` uint8 of a photo: a quarter of the input's bytes."""
        width, height = image.size
        if self.resize in ("shortest", "shortest_floor"):
            wide, high, first, upper = self._cut(width, height)
            scaled = image.convert("RGB").resize((wide, high), _FILTERS[self.interpolation])
            cut = scaled.crop((first, upper, first + self.size, upper + self.size))
            return torch.from_numpy(np.array(cut)).permute(2, 0, 1).contiguous()
        left, top, right, bottom = self.visible(width, height)
        resized = image.convert("RGB").resize(
            (self.size, self.size),
            _FILTERS[self.interpolation],
            box=(left * width, top * height, right * width, bottom * height),
        )
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()

    def _cut(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Width and height of the scaled photo, and where its central square begins, as libraries round them."""
        wide = self.size if width <= height else int(self.size * width / height)
        high = self.size if height <= width else int(self.size * height / width)
        left, top = (wide - self.size) / 2, (high - self.size) / 2
        if self.resize == "shortest_floor":
            return wide, high, int(left), int(top)
        return wide, high, round(left), round(top)

    def normalised(self, values: Tensor) -> Tensor:
        """Input ``(..., 3, size, size)`` float32 of the network for channel values of :meth:`resized`."""
        mean = torch.tensor(self.mean, device=values.device)
        std = torch.tensor(self.std, device=values.device)
        return (values.float() / 255 - mean[:, None, None]) / std[:, None, None]

    def __call__(self, image: Image.Image) -> Tensor:
        """Input ``(3, size, size)`` float32 of the network for a photo."""
        return self.normalised(self.resized(image))
