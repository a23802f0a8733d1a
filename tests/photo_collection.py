"""A collection of tiny photos, a small network's weights, boxes in the photos: what end-to-end tests train on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from crossalign.data.collection import CaptionRecord, Collection, ImageRecord
from crossalign.encoders.backbone import BackboneConfig

INPUT = {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear"}
BACKBONE: dict[str, Any] = {"name": "test_byobnet", "layer": 1, "grid": 2, "input": INPUT}


COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (50, 70, 200), "yellow": (220, 200, 50)}


@dataclass(frozen=True)
class Painted:
    """A folder of photos: the size in pixels and the captions of each."""

    folder: Path
    sizes: dict[str, tuple[int, int]]
    captions: dict[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.sizes)


def paint(folder: Path, count: int) -> Painted:
    """Bright squares on dark grounds, one to three captions each; for fixtures that outlive one test."""
    folder.mkdir(parents=True)
    sizes: dict[str, tuple[int, int]] = {}
    captions: dict[str, tuple[str, ...]] = {}
    for index in range(count):
        random = np.random.default_rng(index)
        width, height = 24 + 4 * (index % 5), 20 + 3 * (index % 4)
        pixels = random.integers(0, 60, (height, width, 3), dtype=np.uint8)
        colour = list(COLOURS)[index % 4]
        left = index % 7
        pixels[4:14, left : left + 10] = COLOURS[colour]
        name = f"photo{index:03d}.png"
        Image.fromarray(pixels).save(folder / name)
        sizes[name] = (width, height)
        place = "left" if left < 3 else "middle"
        captions[name] = tuple(
            f"A {colour} square, {place}, view {index % 9}, {k}." for k in range(1 + index % 3)
        )
    return Painted(folder, sizes, captions)


def write_collection(folder: Path, photos: Any) -> Collection:
    """The photos with their captions: of every six, four train, one is for validation and one for the test."""
    splits = ("train", "train", "train", "val", "train", "test")
    return Collection.write(
        folder,
        name="tiny",
        image_root=photos.folder,
        images=[ImageRecord(name, name, *photos.sizes[name]) for name in photos.names],
        captions=[
            CaptionRecord(f"{name}#{number}", name, text, splits[index % 6])
            for index, name in enumerate(photos.names)
            for number, text in enumerate(photos.captions[name])
        ],
        provenance={},
    )


def write_weights(path: Path, name: str = "test_byobnet", seed: int = 0) -> Path:
    """Random weights of a small timm network, the same for the same seed."""
    torch.manual_seed(seed)
    save_file(timm.create_model(name, num_classes=0).state_dict(), path)
    return path


def backbone(weights: Path, **changes: Any) -> BackboneConfig:
    """Settings of a small network with these weights."""
    return BackboneConfig.model_validate({**BACKBONE, "weights": str(weights), **changes})


def boxes_of(index: int, width: int, height: int) -> list[list[int]]:
    """Boxes of photo ``index`` in pixels: none in every third one; the second reaches beyond the photo."""
    found = [[4, 3, 16, 15], [width // 2, height // 3, width + 5, height]]
    return found[: index % 3]


def write_detections(path: Path, collection: Collection) -> Path:
    """The boxes of every photo as a file of detections."""
    rows = [
        {"filename": image.file, "boxes": boxes_of(index, image.width, image.height)}
        for index, image in enumerate(collection.images)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
