"""Pretrained dual encoders (CLIP, SigLIP, BLIP): an image and a text network that were trained together."""

from crossalign.encoders.dual.load import build_dual_encoder, load_dual_encoder, save_dual_encoder
from crossalign.encoders.dual.parts import DualEncoder, ImageHalf, TextHalf
from crossalign.encoders.dual.settings import DualEncoderSettings, LoRASettings

__all__ = [
    "DualEncoder",
    "DualEncoderSettings",
    "ImageHalf",
    "LoRASettings",
    "TextHalf",
    "build_dual_encoder",
    "load_dual_encoder",
    "save_dual_encoder",
]
