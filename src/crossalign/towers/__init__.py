"""Towers: everything one modality goes through, from its inputs to its encoding."""

from crossalign.towers.dual import DualImageTower, DualTextTower
from crossalign.towers.image import ImageTower
from crossalign.towers.settings import (
    GRUSettings,
    ImageTowerConfig,
    ModelConfig,
    PooledSettings,
    TextTowerConfig,
    UniModalHeadSettings,
)
from crossalign.towers.text import TextTower

__all__ = [
    "DualImageTower",
    "DualTextTower",
    "GRUSettings",
    "ImageTower",
    "ImageTowerConfig",
    "ModelConfig",
    "PooledSettings",
    "TextTower",
    "TextTowerConfig",
    "UniModalHeadSettings",
]
