"""Dual encoders of the transformers library: CLIP, SigLIP, and BLIP for image-text retrieval."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossalign.encoders.dual.parts import DualEncoder, ImageHalf, TextHalf
from crossalign.encoders.dual.settings import PRETRAINED, DualEncoderSettings
from crossalign.encoders.dual.tokenizers import HuggingFaceTokenizer
from crossalign.encoders.hf import checkpoint_blocks, import_transformers, network_settings
from crossalign.encoders.inputs import InputSettings
from crossalign.encoders.weights import require_finite, state_digest
from crossalign.errors import CrossAlignError
from crossalign.settings import parse_settings

__all__ = ["FAMILIES", "Matcher", "embedding_width", "from_transformers", "transformers_parts"]

# Class and name of the embeddings' width for each model_type.
FAMILIES = {
    "clip": ("CLIPModel", "projection_dim"),
    "siglip": ("SiglipModel", None),
    "blip": ("BlipForImageTextRetrieval", "image_text_hidden_size"),
}
_FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}


def embedding_width(config: dict[str, Any]) -> int:
    """E of a ``config.json`` of one of :data:`FAMILIES`; transformers' defaults where it is silent."""
    filled = _transformers().AutoConfig.for_model(**config)
    name = FAMILIES[config["model_type"]][1]
    return int(filled.text_config.projection_size if name is None else getattr(filled, name))


def from_transformers(
    settings: DualEncoderSettings, *, matcher: bool = False, load_weights: bool = True
) -> DualEncoder:
    """A model of a folder or of the hub.

    Args:
        matcher: take BLIP's cross-encoder instead of its text network.

    Raises:
        CrossAlignError: the package is missing; nothing is there, or of another kind; weights are incomplete or others
            than before; a setting contradicts the configuration.
    """
    library = _transformers()
    if settings.weights not in (None, PRETRAINED):
        raise CrossAlignError(
            f"model.dual_encoder.weights: '{settings.weights}': transformers takes those of the folder or the hub "
            "name; leave weights out (or null for random ones)"
        )
    config = _checked_config(library, settings)
    kind = getattr(library, FAMILIES[config.model_type][0])
    if load_weights and settings.weights is not None:
        try:
            model, report = kind.from_pretrained(settings.name, output_loading_info=True)
        except Exception as error:  # the library raises many kinds
            raise CrossAlignError(_unreachable(settings, error)) from None
        ignored = ("position_ids", "decoder_pad_token_id")
        lacking = sorted(key for key in report["missing_keys"] if not key.endswith(ignored))
        if lacking:
            raise CrossAlignError(
                f"model.dual_encoder: the weights of {settings.name} lack {', '.join(lacking[:3])} ({len(lacking)} in "
                f"all), which a {kind.__name__} has; give the folder of a complete one"
            )
    else:
        model = kind(config)
    parts = _parts(library, settings, model, settings.name, matcher)
    if not load_weights or settings.weights is None:
        return parts
    require_finite(model, f"model.dual_encoder: {settings.name}")
    digest = state_digest(model.state_dict())
    if settings.weights_sha256 not in (None, digest):
        raise CrossAlignError(
            f"model.dual_encoder: {settings.name} holds not the weights that were used before (their checksum begins "
            f"with {digest[:12]}, not {str(settings.weights_sha256)[:12]}); give the original ones"
        )
    return replace(parts, settings=settings.model_copy(update={"weights_sha256": digest}))


def transformers_parts(settings: DualEncoderSettings, folder: Path, matcher: bool) -> DualEncoder:
    """The model of a folder's configuration, with random weights."""
    library = _transformers()
    placed = settings.model_copy(update={"name": str(folder)})
    config = _checked_config(library, placed)
    model = getattr(library, FAMILIES[config.model_type][0])(config)
    return _parts(library, settings, model, str(folder), matcher)


def _transformers() -> Any:
    return import_transformers("a dual encoder of transformers")


def _checked_config(library: Any, settings: DualEncoderSettings) -> Any:
    try:
        config = library.AutoConfig.from_pretrained(settings.name, trust_remote_code=False)
    except Exception as error:
        raise CrossAlignError(_unreachable(settings, error)) from None
    if config.model_type not in FAMILIES:
        raise CrossAlignError(
            f"model.dual_encoder: {settings.name} is of the kind '{config.model_type}'; known are "
            f"transformers' {', '.join(FAMILIES)}"
        )
    quick = config.vision_config.hidden_act == "quick_gelu"
    if settings.quick_gelu not in (None, quick):
        raise CrossAlignError(
            f"model.dual_encoder.quick_gelu is {str(settings.quick_gelu).lower()}, but {settings.name} says "
            f"{str(quick).lower()} (hidden_act: {config.vision_config.hidden_act}); leave it out"
        )
    places = config.text_config.max_position_embeddings
    if settings.context_length is not None and settings.context_length > places:
        raise CrossAlignError(
            f"model.dual_encoder.context_length is {settings.context_length}, {settings.name} has {places} places; "
            "lower it"
        )
    return config


def _unreachable(settings: DualEncoderSettings, error: Exception) -> str:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return (
        f"model.dual_encoder: {settings.name} cannot be loaded ({reason}); give a local folder, or download it where "
        "there is a network"
    )


def _parts(library: Any, settings: DualEncoderSettings, model: Any, place: str, matcher: bool) -> DualEncoder:
    config = model.config
    if matcher and config.model_type != "blip":
        raise CrossAlignError(
            f"model.scorer: cross_encoder is BLIP's image-text matching, and {settings.name} is of the kind "
            f"'{config.model_type}'; name a BLIP model"
        )
    # Weights stored in half precision come as such: a CPU is slow with them, and fine-tuning loses its steps.
    model.float()
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        processor = library.AutoImageProcessor.from_pretrained(place)
    except Exception as error:
        raise CrossAlignError(_unreachable(settings, error)) from None
    places = int(config.text_config.max_position_embeddings)
    context = settings.context_length or places
    image: ImageHalf
    text: TextHalf
    cross: nn.Module | None = None
    if config.model_type == "clip":
        image, text = _CLIPImage(model), _CLIPText(model)
    elif config.model_type == "siglip":
        image, text = _SiglipImage(model), _SiglipText(model)
    else:
        image = _BlipStates(model) if matcher else _BlipImage(model)
        text = _BlipWords(model) if matcher else _BlipText(model)
        cross = Matcher(model) if matcher else None
    if image.width != text.width:
        raise CrossAlignError(
            f"model.dual_encoder: the images of {settings.name} are {image.width} wide and its texts {text.width}"
        )
    wrapped = HuggingFaceTokenizer(tokenizer, context, fixed_length=config.model_type == "siglip")

    def save(folder: Path) -> None:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        processor.save_pretrained(folder)

    chosen = _input(settings, processor, int(config.vision_config.image_size))
    described = json.dumps(network_settings(config), sort_keys=True, default=str)
    return DualEncoder(settings, image, text, wrapped, chosen, described, save, cross)


def _input(settings: DualEncoderSettings, processor: Any, network: int) -> InputSettings:
    size = {key: value for key, value in dict(processor.size).items() if value is not None}
    crop = {key: value for key, value in dict(processor.crop_size or {}).items() if value is not None}
    cropped = bool(getattr(processor, "do_center_crop", False))
    shortest, sides = size.get("shortest_edge"), (size.get("height"), size.get("width"))
    if cropped and shortest is not None and set(crop.values()) == {shortest}:
        side, resize = shortest, "shortest_floor"
    elif not cropped and sides[0] is not None and sides[0] == sides[1]:
        side, resize = sides[0], "squash"
    else:
        raise CrossAlignError(
            f"model.dual_encoder: the pre-processing of {settings.name} (size {size}, crop "
            f"{crop if cropped else 'none'}) is not known; it should make squares of the whole photo, or of its centre"
        )
    if side != network:
        raise CrossAlignError(
            f"model.dual_encoder: the pre-processing of {settings.name} makes {side} pixels, its network takes "
            f"{network}; mend its preprocessor_config.json"
        )
    values = {
        "size": side,
        "mean": tuple(processor.image_mean),
        "std": tuple(processor.image_std),
        "interpolation": _FILTERS.get(int(processor.resample), "unknown"),
        "resize": resize,
    }
    return parse_settings(InputSettings, values, f"pre-processing of {settings.name}")


class _Image(ImageHalf):
    """What the image networks share.

    Args:
        network: of transformers.
        width: E.
        prefix: tokens in front of the patches.
    """

    def __init__(self, network: Any, width: int, prefix: int) -> None:
        super().__init__()
        self.network = network
        self.prefix = prefix
        side = network.config.image_size // network.config.patch_size
        self.grid = (side, side)
        self.width = width
        self.states_dim = int(network.config.hidden_size)

    def checkpoint_gradients(self) -> None:
        checkpoint_blocks(self.network)


class _CLIPImage(_Image):
    def __init__(self, model: Any) -> None:
        super().__init__(model.vision_model, model.config.projection_dim, 1)
        self.projection = model.visual_projection

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        output = self.network(pixel_values=pixels, return_dict=True)
        return self.projection(output.pooler_output), output.last_hidden_state[:, 1:]

    def project(self, states: Tensor) -> Tensor:
        projected: Tensor = self.projection(self.network.post_layernorm(states))
        return projected


class _SiglipImage(_Image):
    def __init__(self, model: Any) -> None:
        network = model.vision_model
        if not network.use_head:
            raise CrossAlignError("model.dual_encoder: this SigLIP has no pooling (vision_use_head is false)")
        super().__init__(network, network.config.hidden_size, 0)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        output = self.network(pixel_values=pixels, return_dict=True)
        return output.pooler_output, output.last_hidden_state

    def project(self, states: Tensor) -> Tensor:
        projected: Tensor = self.network.head(states.flatten(0, 1)[:, None])
        return projected.unflatten(0, states.shape[:2])


class _BlipImage(_Image):
    def __init__(self, model: Any) -> None:
        super().__init__(model.vision_model, model.vision_proj.out_features, 1)
        self.projection = model.vision_proj

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        states = self.network(pixel_values=pixels, return_dict=True).last_hidden_state
        return self.projection(states[:, 0]), states[:, 1:]

    def project(self, states: Tensor) -> Tensor:
        projected: Tensor = self.projection(states)
        return projected


class _BlipStates(_BlipImage):
    """BLIP's patches and the class token in front of them: what its cross-encoder looks at. They have no embedding."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        states: Tensor = self.network(pixel_values=pixels, return_dict=True).last_hidden_state
        return states[:, 0], states


class _Text(TextHalf):
    """What the text networks share."""

    def __init__(self, network: Any, width: int, projection: nn.Module | None) -> None:
        super().__init__()
        self.network = network
        if projection is not None:
            self.projection = projection
        self.width = width
        self.states_dim = int(network.config.hidden_size)

    def project(self, states: Tensor) -> Tensor:
        projected: Tensor = self.projection(states)
        return projected

    def checkpoint_gradients(self) -> None:
        checkpoint_blocks(self.network)


class _CLIPText(_Text):
    def __init__(self, model: Any) -> None:
        super().__init__(model.text_model, model.config.projection_dim, model.text_projection)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        output = self.network(input_ids=tokens, attention_mask=mask.to(tokens.dtype), return_dict=True)
        return self.projection(output.pooler_output), output.last_hidden_state


class _SiglipText(_Text):
    def __init__(self, model: Any) -> None:
        network = model.text_model
        super().__init__(network, network.head.out_features, None)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        # SigLIP was trained to see the padding.
        output = self.network(input_ids=tokens, return_dict=True)
        return output.pooler_output, output.last_hidden_state

    def project(self, states: Tensor) -> Tensor:
        projected: Tensor = self.network.head(states)
        return projected


class _BlipText(_Text):
    def __init__(self, model: Any) -> None:
        super().__init__(model.text_encoder, model.text_proj.out_features, model.text_proj)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        output = self.network(input_ids=tokens, attention_mask=mask.to(tokens.dtype), return_dict=True)
        return self.projection(output.last_hidden_state[:, 0]), output.last_hidden_state


class _BlipWords(TextHalf):
    """BLIP's words before they have seen anything: what its cross-encoder reads. They have no embedding."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.network = model.text_encoder.embeddings
        self.width = int(model.text_proj.out_features)
        self.states_dim = int(model.text_encoder.config.hidden_size)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        states: Tensor = self.network(tokens)
        return states[:, 0], states

    def project(self, states: Tensor) -> Tensor:
        return states

    def checkpoint_gradients(self) -> None:
        """There are no blocks."""


class Matcher(nn.Module):
    """BLIP's text network with cross-attention to an image, and its head: how well the two match.

    Li et al., BLIP, ICML 2022, section 3.1 (image-grounded text encoder) and 3.2 (image-text matching).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.network = model.text_encoder
        # They stand in the text tower, where words are read once.
        self.network.embeddings = None
        self.head = model.itm_head

    def forward(self, regions: Tensor, words: Tensor, region_mask: Tensor, word_mask: Tensor) -> Tensor:
        """Scores ``(p,)``: the logit of a match minus that of a mismatch, for image i with text i.

        Args:
            regions: ``(p, R, W)`` states of the image network.
            words: ``(p, L, H)`` embedded words.
        """
        states = self.network(
            encoder_embeds=words,
            attention_mask=word_mask.long(),
            encoder_hidden_states=regions,
            encoder_attention_mask=region_mask.long(),
            return_dict=True,
        ).last_hidden_state
        logits = self.head(states[:, 0]).float()
        return torch.sub(logits[:, 1], logits[:, 0])
