"""Image teachers: one vector a photo, from any network of timm or any image tower of open_clip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from crossalign.encoders.backbone import PRETRAINED, load_weights_of
from crossalign.encoders.inputs import InputSettings
from crossalign.encoders.timm_models import create_network, default_input
from crossalign.encoders.weights import state_digest
from crossalign.errors import CrossAlignError, missing_extra
from crossalign.settings import Settings, parse_settings

__all__ = ["OPEN_CLIP", "ImageTeacher", "ImageTeacherConfig", "image_teacher"]

OPEN_CLIP = "open_clip:"
_RESIZES = {"shortest": "crop", "squash": "squash"}


class ImageTeacherConfig(Settings):
    """Which network and how photos go into it."""

    library: Literal["timm", "open_clip"] = Field(description="where the network comes from")
    name: str = Field(description="name of the model in its library")
    model_args: dict[str, Any] = Field(default={}, description="further arguments of a timm model")
    weights: str = Field(
        description="a file, `pretrained`: what timm downloads, or the tag of open_clip's weights"
    )
    weights_sha256: str | None = Field(
        default=None, description="checksum of the weights; filled in when loaded"
    )
    input: InputSettings


class ImageTeacher(nn.Module):
    """A frozen image network in evaluation mode: pixels ``(B, 3, H, W)`` to vectors ``(B, T)``.

    Args:
        config: settings, with the checksum of the weights filled in.
        network: maps pixels to vectors.

    Attributes:
        dim: T.

    Raises:
        CrossAlignError: the network does not take photos of this size, or gives no single vector a photo.
    """

    def __init__(self, config: ImageTeacherConfig, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.network = network.requires_grad_(False).eval()
        size = config.input.size
        try:
            with torch.inference_mode():
                shape = self.network(torch.zeros(1, 3, size, size)).shape
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CrossAlignError(
                f"{config.name}: cannot take photos of {size} x {size} pixels ({reason}); choose another size, or give "
                "the model the argument img_size"
            ) from None
        if len(shape) != 2:
            raise CrossAlignError(
                f"{config.name}: gives {tuple(shape[1:])} numbers a photo and no single vector; choose another teacher"
            )
        self.dim: int = shape[1]

    def train(self, mode: bool = True) -> ImageTeacher:
        """Stays in evaluation mode: a teacher does not learn."""
        return super().train(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Vectors ``(B, T)`` of pre-processed photos."""
        vectors: Tensor = self.network(pixels)
        return vectors


def image_teacher(
    name: str, weights: str, model_args: Mapping[str, Any], changes: Mapping[str, Any]
) -> ImageTeacher:
    """A teacher by name: a timm model, pooled as it was trained, or ``open_clip:NAME``, its image tower.

    Args:
        weights: a weights file, ``"pretrained"``, or for open_clip the tag of its weights.
        model_args: further arguments of a timm model.
        changes: what of the pre-processing is other than the model's own; None leaves it.

    Raises:
        CrossAlignError: unknown model or weights, or the package is not installed.
    """
    if weights != PRETRAINED and Path(weights).is_file():
        # The manifest must name the file from anywhere.
        weights = str(Path(weights).resolve())
    if name.startswith(OPEN_CLIP):
        if model_args:
            raise CrossAlignError(f"{name}: model arguments are timm's; leave them out")
        return _open_clip_teacher(name.removeprefix(OPEN_CLIP), weights, changes)
    arguments = dict(model_args)
    if changes.get("size") is None:
        changes = {**changes, "size": arguments.get("img_size")}
    network = create_network(name, arguments, pretrained=weights == PRETRAINED)
    digest, _ = load_weights_of(network, name, weights)
    config = ImageTeacherConfig(
        library="timm",
        name=name,
        model_args=arguments,
        weights=weights,
        weights_sha256=digest,
        input=default_input(name, **changes),
    )
    return ImageTeacher(config, network)


class _OpenCLIPImages(nn.Module):
    """The image side of a model of open_clip, as the model itself calls it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        vectors: Tensor = self.model.encode_image(pixels)
        return vectors


def _open_clip_teacher(name: str, weights: str, changes: Mapping[str, Any]) -> ImageTeacher:
    try:
        import open_clip
    except ImportError:
        raise missing_extra("open_clip_torch", "clip", "an image teacher of open_clip") from None
    hub = name.startswith("hf-hub:")
    if not hub:
        if name not in open_clip.list_models():
            raise CrossAlignError(
                f"'{name}' is not a model of open_clip; open_clip.list_models() lists those there are"
            )
        tags = open_clip.list_pretrained_tags_by_model(name)
        # open_clip itself would go on with random weights.
        if weights not in tags and not Path(weights).is_file():
            raise CrossAlignError(
                f"open_clip's {name} has no weights '{weights}'; give --weights a file, or one of "
                f"{', '.join(tags) or '(none are known)'}"
            )
        trained = (open_clip.get_pretrained_cfg(name, weights) or {}).get("quick_gelu", False)
        if weights in tags and trained != (open_clip.get_model_config(name) or {}).get("quick_gelu", False):
            # open_clip itself only warns.
            other = f"{name}-quickgelu" if trained else name.removesuffix("-quickgelu")
            raise CrossAlignError(
                f"open_clip's '{weights}' was not trained with the GELU of {name}; name {other}"
            )
    try:
        model = open_clip.create_model(name, pretrained=None if hub else weights)
    except Exception as error:  # a failed download, or a file of another model
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CrossAlignError(f"open_clip's {name} cannot be loaded with '{weights}' ({reason})") from None
    stated = open_clip.get_model_preprocess_cfg(model)
    size = stated["size"]
    values = {
        "size": size if isinstance(size, int) else size[0],
        "mean": tuple(stated["mean"]),
        "std": tuple(stated["std"]),
        "interpolation": stated["interpolation"],
        "resize": _RESIZES.get(stated["resize_mode"], stated["resize_mode"]),
    } | {key: value for key, value in changes.items() if value is not None}
    config = ImageTeacherConfig(
        library="open_clip",
        name=name,
        weights=weights,
        weights_sha256=state_digest(model.visual.state_dict()),
        input=parse_settings(InputSettings, values, f"input of {name}"),
    )
    return ImageTeacher(config, _OpenCLIPImages(model.float()))
