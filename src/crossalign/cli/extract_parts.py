"""What the options of ``crossalign extract`` describe: a network, an encoder, a source of boxes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from crossalign.errors import CrossAlignError

if TYPE_CHECKING:
    from crossalign.data.regions import BoxFile
    from crossalign.encoders.backbone import ImageBackbone
    from crossalign.encoders.detector import Detector
    from crossalign.encoders.hf import TextBackbone
    from crossalign.encoders.inputs import InputSettings

__all__ = ["channels", "image_backbone", "model_arguments", "regions", "tell_input", "text_backbone"]


def image_backbone(
    name: str,
    weights: str,
    arguments: list[str],
    changes: dict[str, Any],
    layer: int | None,
    grid: int | None,
    global_cell: bool,
) -> ImageBackbone:
    """The network that the options describe; its pre-processing is told on standard error."""
    from crossalign.encoders.backbone import PRETRAINED, BackboneConfig, ImageBackbone
    from crossalign.encoders.timm_models import default_input

    model_args = model_arguments(arguments)
    if changes["size"] is None:
        changes = changes | {"size": model_args.get("img_size")}
    settings = default_input(name, **changes)
    if weights != PRETRAINED:
        # The manifest must name the file from anywhere.
        weights = str(Path(weights).resolve())
    config = BackboneConfig(
        name=name,
        model_args=model_args,
        weights=weights,
        layer=layer,
        input=settings,
        grid=grid,
        global_cell=global_cell,
    )
    backbone = ImageBackbone(config)
    tell_input(settings, changes, f"timm's for {name}")
    if backbone.dropped:
        typer.echo(f"left out of the weights, not needed: {', '.join(backbone.dropped)}", err=True)
    return backbone


def tell_input(settings: InputSettings, changes: dict[str, Any], owner: str) -> None:
    """Tell on standard error how photos go into a network, and what of it was not asked for but is the owner's."""
    stated = [key for key in ("size", "mean", "std", "interpolation") if changes[key] is None]
    typer.echo(
        f"pre-processing: {settings.resize} to {settings.size} x {settings.size}, {settings.interpolation}, "
        f"mean {_shown(settings.mean)}, std {_shown(settings.std)}"
        + (f" ({', '.join(stated)}: {owner})" if stated else ""),
        err=True,
    )


def text_backbone(name: str, max_length: int, layer: int | None) -> TextBackbone:
    """The Hugging Face encoder that the options describe."""
    from crossalign.encoders.hf import TextBackbone, TextBackboneConfig

    if Path(name).is_dir():
        name = str(Path(name).resolve())
    return TextBackbone(TextBackboneConfig(name=name, max_length=max_length, layer=layer))


def regions(
    boxes: Path | None, detector: Path | None, min_score: float | None, max_boxes: int | None
) -> BoxFile | Detector | None:
    """Where boxes come from; None for grid cells."""
    if boxes is not None:
        from crossalign.data.regions import BoxFile

        return BoxFile(boxes, min_score, max_boxes)
    chosen = {"min_score": min_score, "max_boxes": max_boxes}
    given = {key: value for key, value in chosen.items() if value is not None}
    if detector is not None:
        from crossalign.encoders.detector import Detector, DetectorConfig
        from crossalign.settings import parse_settings

        return Detector(
            parse_settings(DetectorConfig, {"model": str(detector.resolve())} | given, "--detector")
        )
    if given:
        raise CrossAlignError(
            "--min-score and --max-boxes choose among boxes; give --boxes or --detector too"
        )
    return None


def model_arguments(texts: list[str]) -> dict[str, Any]:
    """The arguments of a timm model, of ``key=value`` each."""
    return dict(_argument(text) for text in texts)


def _argument(text: str) -> tuple[str, Any]:
    import yaml

    key, separator, value = text.partition("=")
    if not separator or not key.isidentifier():
        raise CrossAlignError(f"--model-args '{text}': not of the form key=value")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise CrossAlignError(f"--model-args '{text}': the value is neither a number nor a word") from None


def channels(option: str, text: str) -> tuple[float, ...]:
    """Three channel values from one number or three with commas between them."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3):
        raise CrossAlignError(f"{option} '{text}': give one number or three with commas between them")
    return values * 3 if len(values) == 1 else values


def _shown(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)
