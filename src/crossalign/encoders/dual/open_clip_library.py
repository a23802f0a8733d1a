"""Dual encoders of the open_clip library."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from crossalign.encoders.dual.open_clip_halves import OpenClipImage, OpenClipText
from crossalign.encoders.dual.parts import DualEncoder, DualTokenizer
from crossalign.encoders.dual.settings import PRETRAINED, DualEncoderSettings
from crossalign.encoders.dual.tokenizers import HuggingFaceTokenizer, SimpleTokenizer
from crossalign.encoders.inputs import InputSettings
from crossalign.encoders.undrawn import Undrawn
from crossalign.encoders.weights import read_weights, require_finite, state_digest
from crossalign.errors import CrossAlignError, missing_extra
from crossalign.files import read_json, write_json
from crossalign.settings import parse_settings

__all__ = ["CONFIGURATION", "built_in_width", "from_open_clip", "open_clip_parts"]

CONFIGURATION = "open_clip_config.json"
_HUB = "hf-hub:"
_TEXT_ENCODER = "text_encoder"
# Parts that only generate or scale: a dual encoder needs neither.
_LEFT_OUT = ("text_decoder.", "logit_scale", "logit_bias")
# What only the files have that OpenAI published.
_OPENAI = ("input_resolution", "context_length", "vocab_size")


def built_in_width(name: str) -> int:
    """E of one of open_clip's names.

    Raises:
        CrossAlignError: there is no such name.
    """
    config, _, _, _ = _resolved(_open_clip(), DualEncoderSettings(name=name, weights=None))
    return int(config["embed_dim"])


def from_open_clip(settings: DualEncoderSettings, *, load_weights: bool = True) -> DualEncoder:
    """A model by one of open_clip's names, of the hub, or of a folder.

    Raises:
        CrossAlignError: the package is missing; the model, its tag or its file is unknown, does not fit or cannot be
            fetched; QuickGELU or another setting contradicts the weights.
    """
    library = _open_clip()
    config, preprocessing, weights, tag = _resolved(library, settings)
    config = _with_gelu(settings, config, tag)
    wanted = load_weights and settings.weights is not None
    if wanted and weights is None:
        # Before the network is built: where there is no way to the hub, that is said at once.
        weights = _fetched(settings, lambda: library.pretrained.download_pretrained(tag))
    with Undrawn() if wanted else nullcontext():
        parts = open_clip_parts(settings, config, preprocessing, None)
    if wanted:
        assert weights is not None
        model = _Whole(parts.image, parts.text)
        digest = _load(library, model, weights, settings, quick=bool(config.get("quick_gelu")))
        return replace(parts, settings=settings.model_copy(update={"weights_sha256": digest}))
    return parts


def open_clip_parts(
    settings: DualEncoderSettings, config: dict[str, Any], preprocessing: dict[str, Any], folder: Path | None
) -> DualEncoder:
    """The model of a configuration, with random weights.

    Args:
        config: ``model_cfg`` of open_clip.
        preprocessing: ``preprocess_cfg`` of open_clip.
        folder: where tokenizer and text encoder are, instead of the hub.
    """
    library = _open_clip()
    config = deepcopy(config)
    text = config["text_cfg"]
    config["vision_cfg"] |= {"patch_dropout": 0.0}
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    if text.get("hf_model_name"):
        text["hf_model_pretrained"] = False
    context = settings.context_length or int(text.get("context_length", 77))
    if context > int(text.get("context_length", 77)):
        raise CrossAlignError(
            f"model.dual_encoder.context_length is {context}, {settings.name} has {text.get('context_length', 77)} "
            "places; lower it"
        )
    built = deepcopy(config)
    if folder is not None and text.get("hf_model_name"):
        built["text_cfg"]["hf_model_name"] = str(folder / _TEXT_ENCODER)
    known = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")
    try:
        model = library.model.CustomTextCLIP(**{key: built[key] for key in known if key in built})
    except Exception as error:  # whatever fails in here is a wrong configuration or a failed download
        raise CrossAlignError(
            f"model.dual_encoder: open_clip cannot build {settings.name} ({_reason(error)}); check the name, and the "
            "network where its text encoder is of the hub"
        ) from None
    model.float()
    input_settings = _input(settings, preprocessing, model.visual)
    image = OpenClipImage(model.visual, input_settings.size, settings.units == "pretrained")
    half = OpenClipText(model.text)
    tokenizer = _tokenizer(library, settings, text, context, half.sees_padding, folder)

    def save(place: Path) -> None:
        write_json(place / CONFIGURATION, {"model_cfg": config, "preprocess_cfg": preprocessing})
        if isinstance(tokenizer, HuggingFaceTokenizer):
            tokenizer.tokenizer.save_pretrained(place)
        if half.hugging_face:
            model.text.config.save_pretrained(place / _TEXT_ENCODER)

    described = json.dumps(_without_places(config), sort_keys=True)
    return DualEncoder(settings, image, half, tokenizer, input_settings, described, save)


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration says what is computed, not where something comes from."""
    text = {
        key: value for key, value in config["text_cfg"].items() if not key.endswith(("_name", "_pretrained"))
    }
    return {**config, "text_cfg": text}


class _Whole(nn.Module):
    """Both towers under the names that open_clip's weights have."""

    def __init__(self, image: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.visual = image.get_submodule("visual")
        self.text = text.get_submodule("text")


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise missing_extra("open_clip", "clip", "a dual encoder of open_clip") from None
    return open_clip


def _resolved(
    library: Any, settings: DualEncoderSettings
) -> tuple[dict[str, Any], dict[str, Any], str | None, Any]:
    """Configuration, pre-processing, weights file where it is known, and what open_clip knows of the tag."""
    name, weights = settings.name, settings.weights
    preprocessing = asdict(library.transform.PreprocessCfg())
    folder = Path(name.removeprefix("local-dir:"))
    if name.startswith(_HUB) or folder.is_dir():
        if weights not in (None, PRETRAINED):
            raise CrossAlignError(
                f"model.dual_encoder.weights: {name} holds its own weights; leave weights out, or give open_clip's "
                "name of the model instead"
            )
        if name.startswith(_HUB):
            folder = Path(_fetched(settings, lambda: _snapshot(name.removeprefix(_HUB), weights is not None)))
        content = read_json(folder / CONFIGURATION, "give a folder of a model of open_clip")
        if (
            not isinstance(content, dict)
            or not {"embed_dim", "vision_cfg", "text_cfg"} <= content.get("model_cfg", {}).keys()
        ):
            raise CrossAlignError(f"{folder / CONFIGURATION}: no model_cfg of a dual encoder in it")
        file = None
        if weights is not None:
            file = library.factory._find_checkpoint_in_dir(folder)
            if file is None:
                raise CrossAlignError(
                    f"{folder}: no weights in it; set model.dual_encoder.weights: null for random ones"
                )
        return content["model_cfg"], preprocessing | content.get("preprocess_cfg", {}), file, None
    config = library.get_model_config(name.replace("/", "-"))
    if config is None:
        from difflib import get_close_matches

        near = get_close_matches(name, library.list_models(), 3)
        hint = f"did you mean {', '.join(near)}?" if near else "open_clip.list_models() lists those there are"
        raise CrossAlignError(
            f"model.dual_encoder.name: '{name}' is no folder and no model of open_clip; {hint}"
        )
    if weights is None or Path(weights).is_file():
        return config, preprocessing, weights, None
    tag = library.get_pretrained_cfg(name.replace("/", "-"), weights)
    if not tag:
        tags = ", ".join(library.list_pretrained_tags_by_model(name.replace("/", "-"))) or "none"
        raise CrossAlignError(
            f"model.dual_encoder.weights: '{weights}' is no file and no tag of {name}; its tags: {tags}"
        )
    stated = {key: value for key, value in tag.items() if key in preprocessing}
    return config, preprocessing | stated, None, tag


def _snapshot(repository: str, weights: bool) -> str:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "*.model", *(["open_clip*model.*"] if weights else [])]
    return str(snapshot_download(repository, allow_patterns=patterns))


def _fetched(settings: DualEncoderSettings, fetch: Callable[[], Any]) -> Any:
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    # Its retries are told line by line.
    logging.set_verbosity_error()
    try:
        return fetch()
    except Exception as error:
        raise CrossAlignError(
            f"model.dual_encoder: the weights {settings.weights} of {settings.name} were not to be had "
            f"({_reason(error)}); {_offline(settings)}"
        ) from None
    finally:
        logging.set_verbosity(before)


def _offline(settings: DualEncoderSettings) -> str:
    """What to give where there is no way to the hub: a folder goes everywhere, a file only in a recipe."""
    if settings.name.startswith(_HUB):
        return "fetch its folder where there is a network and give that instead of the name"
    return (
        "fetch them where there is a network; then give their file in a recipe (model.dual_encoder.weights=FILE), and "
        f"to a command that takes a model a folder with {CONFIGURATION} and the weights, as the hub has it, instead of "
        "the name"
    )


def _with_gelu(settings: DualEncoderSettings, config: dict[str, Any], tag: Any) -> dict[str, Any]:
    """The configuration with the GELU that its weights were trained with."""
    stated, asked = bool(config.get("quick_gelu", False)), settings.quick_gelu
    by_name = not (settings.name.startswith(_HUB) or Path(settings.name.removeprefix("local-dir:")).is_dir())
    if asked is not None and asked != stated and (not by_name or stated):
        raise CrossAlignError(
            f"model.dual_encoder.quick_gelu is {_yaml(asked)}, but {settings.name} says {_yaml(stated)}; leave it out"
        )
    used = stated if asked is None else asked
    if tag is not None and bool(tag.get("quick_gelu", False)) != used:
        raise CrossAlignError(
            f"model.dual_encoder: the weights {settings.weights} were trained with "
            f"{_gelu(not used)}, {settings.name} computes {_gelu(used)}; "
            + (
                f"take the name {settings.name}-quickgelu, or set quick_gelu: true"
                if not used
                else "take the name without -quickgelu"
            )
        )
    return config | {"quick_gelu": used}


def _gelu(quick: bool) -> str:
    return "QuickGELU" if quick else "GELU"


def _yaml(value: bool) -> str:
    return str(value).lower()


def _load(library: Any, model: nn.Module, file: str, settings: DualEncoderSettings, *, quick: bool) -> str:
    """Load a file strictly; returns the checksum of what the model then holds."""
    state = read_weights(Path(file))
    if all(key in state for key in _OPENAI) and not quick:
        raise CrossAlignError(
            f"model.dual_encoder: {file} is OpenAI's own file, trained with QuickGELU, {settings.name} computes GELU; "
            "set quick_gelu: true"
        )
    for key in _OPENAI:
        state.pop(key, None)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if "positional_embedding" in state:
        state = library.model.convert_to_custom_text_state_dict(state)
    state = {key: value for key, value in state.items() if not key.startswith(_LEFT_OUT)}
    own = model.state_dict()
    missing = sorted(key for key in own if key not in state and not key.endswith("num_batches_tracked"))
    unknown = sorted(key for key in state if key not in own and not key.endswith("position_ids"))
    shapes = sorted(key for key in own if key in state and own[key].shape != state[key].shape)
    wrong = [
        f"{title} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for title, keys in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if keys
    ]
    if wrong:
        raise CrossAlignError(
            f"model.dual_encoder.weights: {file} does not fit {settings.name}: {'; '.join(wrong)}; check the name"
        )
    model.load_state_dict({key: value.float() for key, value in state.items() if key in own}, strict=False)
    require_finite(model, f"model.dual_encoder.weights: {file}")
    digest = state_digest(model.state_dict())
    if settings.weights_sha256 not in (None, digest):
        raise CrossAlignError(
            f"model.dual_encoder: {file} holds not the weights that were used before (their checksum begins with "
            f"{digest[:12]}, not {str(settings.weights_sha256)[:12]}); give the original ones"
        )
    return digest


def _input(settings: DualEncoderSettings, preprocessing: dict[str, Any], visual: Any) -> InputSettings:
    size = visual.image_size
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    mode = preprocessing.get("resize_mode", "shortest")
    if height != width or mode not in ("shortest", "squash"):
        raise CrossAlignError(
            f"model.dual_encoder: {settings.name} takes photos of {width} x {height} pixels, resized by '{mode}'; only "
            "squares by 'shortest' or 'squash' are known"
        )
    stated = preprocessing.get("size", height)
    if stated not in (height, (height, width), [height, width]) and stated != 224:
        raise CrossAlignError(
            f"model.dual_encoder: the weights of {settings.name} were pre-processed to {stated} pixels, its network "
            f"takes {height}; give the name of that size"
        )
    values = {
        "size": height,
        "mean": tuple(preprocessing["mean"]),
        "std": tuple(preprocessing["std"]),
        "interpolation": preprocessing.get("interpolation", "bicubic"),
        "resize": mode,
    }
    return parse_settings(InputSettings, values, f"pre-processing of {settings.name}")


def _tokenizer(
    library: Any,
    settings: DualEncoderSettings,
    text: dict[str, Any],
    context: int,
    sees_padding: bool,
    folder: Path | None,
) -> DualTokenizer:
    name = text.get("hf_tokenizer_name") or ""
    arguments = dict(text.get("tokenizer_kwargs") or {})
    if not name:
        return SimpleTokenizer(
            library.SimpleTokenizer(context_length=context, **arguments), context, sees_padding
        )
    if text.get("tokenizer_mode"):
        raise CrossAlignError(
            f"model.dual_encoder: the tokenizer of {settings.name} works in the mode '{text['tokenizer_mode']}', "
            "which is not known"
        )
    place = Path(settings.name.removeprefix("local-dir:"))
    source = folder or (place if place.is_dir() else name)
    try:
        found = library.tokenizer.HFTokenizer(str(source), context_length=context, **arguments)
    except Exception as error:
        raise CrossAlignError(
            f"model.dual_encoder: the tokenizer {source} of {settings.name} cannot be loaded ({_reason(error)}); "
            "fetch it where there is a network"
        ) from None
    blanked = found.tokenizer.sep_token_id if found.strip_sep_token else None
    return HuggingFaceTokenizer(found.tokenizer, context, sees_padding, found.clean_fn, blanked)


def _reason(error: Exception) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
