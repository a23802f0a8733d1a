"""Building, saving and loading dual encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossalign.encoders.dual.hugging_face import (
    FAMILIES,
    embedding_width,
    from_transformers,
    transformers_parts,
)
from crossalign.encoders.dual.lora import add_lora
from crossalign.encoders.dual.open_clip_library import (
    CONFIGURATION,
    built_in_width,
    from_open_clip,
    open_clip_parts,
)
from crossalign.encoders.dual.parts import DualEncoder
from crossalign.encoders.dual.settings import DualEncoderSettings
from crossalign.encoders.undrawn import Undrawn
from crossalign.errors import CrossAlignError
from crossalign.files import read_json, write_json

__all__ = [
    "build_dual_encoder",
    "load_dual_encoder",
    "named_dual_encoder",
    "published_dual_encoder",
    "save_dual_encoder",
]

OPEN_CLIP = "open_clip:"
_INPUT = "input.json"
_MEND = "put a whole copy back, or save the model again"


def build_dual_encoder(
    settings: DualEncoderSettings, *, matcher: bool = False, load_weights: bool = True
) -> DualEncoder:
    """The model that settings name, by a library's name, a folder or the hub.

    Args:
        matcher: with its cross-encoder, as BLIP has one.

    Raises:
        CrossAlignError: a package is missing, the model is not to be had, or settings contradict it.
    """
    if settings.library == "transformers":
        parts = from_transformers(settings, matcher=matcher, load_weights=load_weights)
    elif matcher:
        raise CrossAlignError(
            "model.scorer: cross_encoder is BLIP's image-text matching; set model.dual_encoder.library: transformers"
        )
    else:
        parts = from_open_clip(settings, load_weights=load_weights)
    return _adapted(parts)


def save_dual_encoder(parts: DualEncoder, folder: Path) -> None:
    """Write configuration, pre-processing and tokenizer, all but the weights, into an empty folder."""
    folder.mkdir()
    parts.save_parts(folder)
    write_json(folder / _INPUT, parts.input.model_dump(mode="json"))


def load_dual_encoder(settings: DualEncoderSettings, folder: Path, *, matcher: bool = False) -> DualEncoder:
    """What :func:`save_dual_encoder` wrote, without its weights, and without asking the hub.

    Raises:
        CrossAlignError: the folder is incomplete, or a package is missing.
    """
    stated = read_json(folder / _INPUT, _MEND)
    with Undrawn():
        if settings.library == "transformers":
            parts = transformers_parts(settings, folder, matcher)
        else:
            content = read_json(folder / CONFIGURATION, _MEND)
            parts = open_clip_parts(settings, content["model_cfg"], content["preprocess_cfg"], folder)
    if parts.input.model_dump(mode="json") != stated:
        raise CrossAlignError(
            f"{folder / _INPUT}: not the pre-processing that the files beside it state; {_MEND}"
        )
    return _adapted(parts)


def published_dual_encoder(folder: Path) -> tuple[DualEncoderSettings, int, bool] | None:
    """Settings, embedding width and whether it scores pairs, of a folder that open_clip or transformers wrote.

    None where it is of neither.
    """
    for file in ("config.json", CONFIGURATION):
        content: Any = read_json(folder / file, _MEND) if (folder / file).is_file() else None
        if not isinstance(content, dict):
            continue
        kind = content.get("model_type")
        if kind in FAMILIES and file != CONFIGURATION:
            settings = DualEncoderSettings(library="transformers", name=str(folder))
            return settings, embedding_width(content), kind == "blip"
        width = (content.get("model_cfg") or {}).get("embed_dim")
        if isinstance(width, int) and file == CONFIGURATION:
            return DualEncoderSettings(name=str(folder)), width, False
    return None


def named_dual_encoder(name: str) -> tuple[DualEncoderSettings, int]:
    """Settings and embedding width of ``open_clip:NAME/TAG``.

    Raises:
        CrossAlignError: not of that form, or no such model.
    """
    model, _, tag = name.removeprefix(OPEN_CLIP).rpartition("/")
    if not model:
        raise CrossAlignError(f"{name}: give open_clip's name and tag, such as open_clip:ViT-B-32/openai")
    return DualEncoderSettings(name=model, weights=tag), built_in_width(model)


def _adapted(parts: DualEncoder) -> DualEncoder:
    if parts.settings.lora is not None:
        for half in (parts.image, parts.text):
            add_lora(half, parts.settings.lora)
    return parts
