"""Text teachers: one vector a sentence, from a sentence-transformers model or any Hugging Face encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from crossalign.encoders.hf import TextBackbone, TextBackboneConfig, import_transformers, resolve_name
from crossalign.encoders.weights import read_weights
from crossalign.errors import CrossAlignError
from crossalign.files import read_json
from crossalign.masking import masked_mean
from crossalign.normalization import unit_norm
from crossalign.settings import Settings

__all__ = ["POOLINGS", "TextTeacher", "TextTeacherConfig", "text_teacher"]

Pooling = Literal["mean", "cls", "max", "mean_sqrt_length", "last"]
POOLINGS: tuple[Pooling, ...] = ("mean", "cls", "max", "mean_sqrt_length", "last")
# How the configuration of a Pooling module names them, as a switch or as a word.
_SWITCHES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_length",
    "pooling_mode_lasttoken": "last",
}
_WORDS: dict[str, Pooling] = {
    "mean": "mean",
    "cls": "cls",
    "max": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_length",
    "lasttoken": "last",
}
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "Tanh": nn.Tanh,
    "Identity": nn.Identity,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
}
_LONGEST = 64


class TextTeacherConfig(Settings):
    """Which encoder, and how its token states become one vector."""

    encoder: TextBackboneConfig
    pooling: Pooling = Field(default="mean", description="how token states become one vector")
    lowercase: bool = Field(default=False, description="lower-case texts first")
    dense: tuple[str, ...] = Field(default=(), description="layers behind the pooling, by their folders")
    normalize: bool = Field(default=False, description="scale the vector to unit norm")


class TextTeacher(nn.Module):
    """A frozen sentence encoder in evaluation mode.

    Args:
        config: settings.
        dense: layers behind the pooling.

    Attributes:
        config: the settings, with the checksum of the encoder's weights filled in.
        dim: T, width of the vectors.

    Raises:
        CrossAlignError: as for :class:`~crossalign.encoders.hf.TextBackbone`.
    """

    def __init__(self, config: TextTeacherConfig, dense: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.backbone = TextBackbone(config.encoder)
        self.dense = nn.Sequential(*dense)
        self.config = config.model_copy(update={"encoder": self.backbone.config})
        self.requires_grad_(False).eval()
        self.dim: int = self(["a"]).shape[1]

    def train(self, mode: bool = True) -> TextTeacher:
        """Stays in evaluation mode: a teacher does not learn."""
        return super().train(False)

    @torch.inference_mode()
    def forward(self, texts: Sequence[str]) -> Tensor:
        """Vectors ``(n, T)`` of texts, on the device of the encoder."""
        device = next(self.backbone.parameters()).device
        if self.config.lowercase:
            texts = [text.lower() for text in texts]
        tokens, mask = (part.to(device) for part in self.backbone.tokenize(texts))
        vectors: Tensor = self.dense(pool(self.backbone(tokens, mask).float(), mask, self.config.pooling))
        return unit_norm(vectors) if self.config.normalize else vectors


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector ``(B, H)`` of token states ``(B, W, H)`` with mask ``(B, W)``, special tokens included."""
    rows = torch.arange(len(states), device=states.device)
    if pooling == "cls":
        return states[rows, mask.to(torch.int8).argmax(dim=1)]
    if pooling == "last":
        last = mask.shape[1] - 1 - mask.flip(1).to(torch.int8).argmax(dim=1)
        return states[rows, last]
    if pooling == "max":
        return states.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(dim=1)
    mean = masked_mean(states, mask)
    return mean * mask.sum(dim=1, keepdim=True).sqrt() if pooling == "mean_sqrt_length" else mean


def text_teacher(name: str, max_length: int | None = None, pooling: Pooling | None = None) -> TextTeacher:
    """A teacher by folder, hub name or ``package:NAME/FOLDER``.

    A sentence-transformers model says itself how it pools and how long its texts are; any other encoder is read up to
    64 tokens and pooled by the mean, unless told otherwise.

    Raises:
        CrossAlignError: no such encoder, or a module of a sentence-transformers model that is not known.
    """
    if Path(name).is_dir():
        name = str(Path(name).resolve())
    modules = _json(name, "modules.json")
    if modules is None:
        encoder = TextBackboneConfig(name=name, max_length=max_length or _LONGEST)
        return TextTeacher(TextTeacherConfig(encoder=encoder, pooling=pooling or "mean"))
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    unknown = sorted(set(kinds) - {"Transformer", "Pooling", "Dense", "Normalize"})
    if unknown or kinds[:2] != ["Transformer", "Pooling"] or modules[0]["path"]:
        raise CrossAlignError(
            f"text teacher '{name}': its modules are {', '.join(kinds)}; known are a Transformer in the folder itself, "
            "a Pooling, and behind them Dense and Normalize"
        )
    stated = _json(name, "sentence_bert_config.json") or {}
    own = _pooling(name, _json(name, f"{modules[1]['path']}/config.json") or {})
    layers = tuple(module["path"] for module, kind in zip(modules, kinds, strict=True) if kind == "Dense")
    config = TextTeacherConfig(
        encoder=TextBackboneConfig(
            name=name, max_length=max_length or stated.get("max_seq_length") or _LONGEST
        ),
        pooling=pooling or own,
        lowercase=bool(stated.get("do_lower_case", False)),
        dense=layers,
        normalize="Normalize" in kinds,
    )
    return TextTeacher(config, [part for path in layers for part in _dense(name, path)])


def _pooling(name: str, values: dict[str, Any]) -> Pooling:
    """The one pooling that a sentence-transformers model asks for."""
    asked = [key for key, value in values.items() if key.startswith("pooling_mode_") and value]
    found = [_SWITCHES.get(key) for key in asked] or [_WORDS.get(str(values.get("pooling_mode")))]
    if len(found) != 1 or found[0] is None:
        told = ", ".join(asked) or str(values.get("pooling_mode"))
        raise CrossAlignError(
            f"text teacher '{name}': pools by {told}; known is one of {', '.join(POOLINGS)}"
        )
    return found[0]


def _dense(name: str, path: str) -> list[nn.Module]:
    """A linear layer of a sentence-transformers model, and its activation."""
    values = _json(name, f"{path}/config.json") or {}
    activation = str(values.get("activation_function", "")).rpartition(".")[2]
    weights = _file(name, f"{path}/model.safetensors") or _file(name, f"{path}/pytorch_model.bin")
    if weights is None or activation not in _ACTIVATIONS:
        raise CrossAlignError(
            f"text teacher '{name}': its layer {path} has no weights, or the unknown activation '{activation}'"
        )
    linear = nn.Linear(values["in_features"], values["out_features"], bias=values.get("bias", True))
    linear.load_state_dict(
        {key.removeprefix("linear."): value for key, value in read_weights(weights).items()}
    )
    return [linear, _ACTIVATIONS[activation]()]


def _json(name: str, file: str) -> Any:
    """The content of a JSON file of a model; None where it has no such file."""
    path = _file(name, file)
    return None if path is None else read_json(path, "fetch the model again")


def _file(name: str, file: str) -> Path | None:
    """A file of a model, in a folder or on the hub; None where there is none."""
    place = resolve_name(name)
    if Path(place).is_dir():
        return path if (path := Path(place) / file).is_file() else None
    try:
        found = import_transformers().utils.cached_file(
            place, file, _raise_exceptions_for_missing_entries=False
        )
    except OSError as error:  # no such model, or no way to the hub: what it would say is not guessed
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CrossAlignError(
            f"text teacher '{name}' cannot be loaded ({reason}); give a local folder or a hub name"
        ) from None
    return None if found is None else Path(found)
