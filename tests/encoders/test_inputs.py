"""Pre-processing equals what its settings say, computed step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from crossalign.encoders.inputs import InputSettings

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def settings(**changes: object) -> InputSettings:
    return InputSettings.model_validate({"size": 16, "mean": MEAN, "std": STD} | changes)


def by_hand(image: Image.Image) -> np.ndarray:
    values = np.asarray(image).astype(np.float64) / 255
    return ((values - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_squash_brings_the_whole_photo_to_size(interpolation: str) -> None:
    photo = noise(40, 24)
    expected = by_hand(photo.resize((16, 16), getattr(Image.Resampling, interpolation.upper())))
    pixels = settings(interpolation=interpolation)(photo)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-6)
    assert settings().visible(40, 24) == (0, 0, 1, 1)


@pytest.mark.parametrize(("width", "height"), [(48, 16), (16, 48), (16, 16)])
def test_crop_keeps_the_centre(width: int, height: int) -> None:
    photo = noise(width, height)
    left, top = (width - 16) // 2, (height - 16) // 2
    expected = by_hand(photo.crop((left, top, left + 16, top + 16)))
    crop = settings(resize="crop")
    np.testing.assert_allclose(crop(photo).numpy(), expected, atol=1e-6)
    box = np.array(crop.visible(width, height)) * [width, height, width, height]
    np.testing.assert_allclose(box, [left, top, left + 16, top + 16])


def test_grey_photos_get_three_channels() -> None:
    grey = noise(20, 20).convert("L")
    assert torch.equal(settings()(grey), settings()(grey.convert("RGB")))


@pytest.mark.parametrize("change", [{"size": 0}, {"std": (0.2, 0, 0.2)}, {"resize": "stretch"}, {"sizes": 3}])
def test_impossible_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        settings(**change)


def test_settings_can_be_compared_and_hashed() -> None:
    assert len({settings(), settings(), settings(size=8)}) == 2
