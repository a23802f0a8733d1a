"""The folder of a model on disk: settings, weights, tokenizer, and the encoders its towers need."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crossalign.encoders.dual import DualEncoder, load_dual_encoder, save_dual_encoder
from crossalign.encoders.dual.load import OPEN_CLIP, named_dual_encoder, published_dual_encoder
from crossalign.encoders.dual.open_clip_library import CONFIGURATION
from crossalign.encoders.hf import TextBackbone
from crossalign.encoders.weights import require_finite
from crossalign.encoders.words import WordTokenizer
from crossalign.errors import CrossAlignError
from crossalign.files import read_json, write_json
from crossalign.folders import atomic_folder, restore_folder
from crossalign.scorers.settings import CrossEncoderSettings
from crossalign.settings import parse_settings
from crossalign.towers.settings import GRUSettings, ModelConfig

__all__ = ["ENSEMBLE", "StoredModel", "check_replaceable", "portable_settings", "read_model", "write_model"]

FORMAT_VERSION = 1
SETTINGS, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
DETECTOR, TEXT_BACKBONE, DUAL_ENCODER = "detector.onnx", "text_backbone", "dual_encoder"
# The folder of several models, which crossalign.ensemble writes.
ENSEMBLE = "ensemble.json"
OWN = {SETTINGS, WEIGHTS, TOKENIZER, DETECTOR, TEXT_BACKBONE, DUAL_ENCODER}
# Settings younger than the format, and the value at which a model is what it was before them: it keeps the fingerprint
# that it had, and so its indexes.
LATER = {
    "embedding_size": None,
    "scorer": None,
    "uni_modal_head": None,
    "dual_encoder": None,
    "context_units": "context",
}
# A Hugging Face encoder is kept in its own format, in a folder of its own.
KEPT_ELSEWHERE = "text_tower.backbone."
_MEND = "put a whole copy back, or save the model again"


@dataclass(frozen=True)
class StoredModel:
    """What a model folder holds.

    Attributes:
        dual: the dual encoder, without its weights.
        published: the folder is that of another library's dual encoder, whose weights are loaded as it is built.
    """

    folder: Path
    config: ModelConfig
    tokenizer: WordTokenizer | None
    text_backbone: TextBackbone | None
    dual: DualEncoder | None = None
    published: bool = False

    def load_into(self, model: nn.Module) -> None:
        """Give a freshly built model its weights.

        Raises:
            CrossAlignError: the weights file is missing, damaged or of another model.
        """
        weights = self.folder / WEIGHTS
        if not weights.is_file():
            raise CrossAlignError(f"{weights}: no such file; the model folder is not complete, {_MEND}")
        try:
            stored = load_file(weights)
        except (OSError, SafetensorError) as error:
            raise CrossAlignError(
                f"{weights}: cannot be loaded ({' '.join(str(error).split())}); {_MEND}"
            ) from None
        self._check_shapes(stored, model.state_dict())
        missing, unknown = model.load_state_dict(stored, strict=False)
        missing = [key for key in missing if not key.startswith(KEPT_ELSEWHERE)]
        if missing or unknown:
            raise CrossAlignError(
                f"{weights}: missing {missing[:3]}, unknown {unknown[:3]}; save the model again"
            )
        require_finite(model, str(weights))

    def _check_shapes(self, stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
        wrong = [name for name, value in stored.items() if name in own and own[name].shape != value.shape]
        if wrong:
            named = ", ".join(
                f"{name} is {tuple(stored[name].shape)} and not {tuple(own[name].shape)}"
                for name in wrong[:2]
            )
            more = f", and {len(wrong) - 2} more" if len(wrong) > 2 else ""
            raise CrossAlignError(
                f"{self.folder / WEIGHTS}: not of the shapes that {SETTINGS} beside it asks for ({named}{more}); put "
                f"back the {SETTINGS} it was saved with, or save the model again"
            )


def portable_settings(config: ModelConfig) -> dict[str, Any]:
    """The settings without places of this machine: the folder itself holds all weights."""
    values = config.model_dump(mode="json")
    for name, before in LATER.items():
        if values[name] == before:
            del values[name]
    for backbone in values["image"]["backbones"]:
        if backbone["weights"] is not None:
            backbone["weights"] = Path(backbone["weights"]).name
    if values["image"]["detector"] is not None:
        values["image"]["detector"]["model"] = DETECTOR
    if (dual := values.get("dual_encoder")) is not None:
        place = Path(dual["name"].removeprefix("local-dir:"))
        if place.is_absolute() or place.exists() or len(place.parts) > 2:
            dual["name"] = place.name
        dual["weights"] = None if dual["weights"] is None else Path(dual["weights"]).name
    if values["text"]["backbone"] is not None:
        values["text"]["backbone"]["name"] = Path(values["text"]["backbone"]["name"]).name
    return values


def write_model(
    folder: str | Path,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    tokenizer: WordTokenizer | None,
    text_backbone: TextBackbone | None,
    dual: DualEncoder | None = None,
) -> None:
    """Write a model folder, whole or not at all, replacing an old one.

    Raises:
        CrossAlignError: something else than a model is there; see :func:`check_replaceable`.
    """
    check_replaceable(folder)
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in state.items()
        if not name.startswith(KEPT_ELSEWHERE)
    }
    with atomic_folder(folder, overwrite=True) as temporary:
        write_json(
            temporary / SETTINGS, {"format_version": FORMAT_VERSION, "model": portable_settings(config)}
        )
        save_file(tensors, temporary / WEIGHTS)
        if tokenizer is not None:
            (temporary / TOKENIZER).write_text(tokenizer.to_json(), encoding="utf-8")
        if config.image.detector is not None:
            shutil.copyfile(config.image.detector.model, temporary / DETECTOR)
        if text_backbone is not None:
            text_backbone.save(temporary / TEXT_BACKBONE)
        if dual is not None:
            save_dual_encoder(dual, temporary / DUAL_ENCODER)


def check_replaceable(folder: str | Path) -> None:
    """Refuse to replace anything but a model: whatever else is in the folder would be lost.

    Raises:
        CrossAlignError: ``folder`` is a file, or holds anything that no model folder has.
    """
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CrossAlignError(f"{folder}: not a folder; choose another place for the model")
    names = {entry.name for entry in folder.iterdir()}
    foreign = sorted(names - OWN)
    if names and not foreign and not _is_ours(folder / SETTINGS):
        # Other libraries use these names, too.
        foreign = sorted(names, key=lambda name: name != SETTINGS)
    if foreign:
        raise CrossAlignError(
            f"{folder}: holds '{foreign[0]}', which is of no crossalign model; move it away or choose another folder"
        )


def _is_ours(settings: Path) -> bool:
    try:
        content = read_json(settings)
    except CrossAlignError:
        return False
    return isinstance(content, dict) and {"format_version", "model"} <= content.keys()


def read_model(name: str | Path) -> StoredModel:
    """Read a model folder, that of a training run, or a model of the Hugging Face Hub.

    Raises:
        CrossAlignError: nothing is there, or what is there is damaged or of another version.
    """
    if str(name).startswith(OPEN_CLIP):
        settings, width = named_dual_encoder(str(name))
        config = ModelConfig(dim=width, dual_encoder=settings)
        return StoredModel(Path(), config, None, None, published=True)
    folder = _locate(name)
    if (found := published_dual_encoder(folder)) is not None:
        settings, width, scores = found
        scorer = CrossEncoderSettings() if scores else None
        config = ModelConfig(dim=width, dual_encoder=settings, scorer=scorer)
        return StoredModel(folder, config, None, None, published=True)
    content = read_json(folder / SETTINGS, _MEND)
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise CrossAlignError(
            f"{folder / SETTINGS}: not a crossalign model of format {FORMAT_VERSION}; {_MEND}"
        )
    config = parse_settings(ModelConfig, content.get("model"), str(folder / SETTINGS))
    if config.image.detector is not None:
        detector = config.image.detector.model_copy(update={"model": str(folder / DETECTOR)})
        image = config.image.model_copy(update={"detector": detector})
        config = config.model_copy(update={"image": image})
    tokenizer = backbone = dual = None
    if config.dual_encoder is not None:
        matched = isinstance(config.scorer, CrossEncoderSettings)
        dual = load_dual_encoder(config.dual_encoder, folder / DUAL_ENCODER, matcher=matched)
    elif isinstance(config.text.encoder, GRUSettings):
        tokenizer = WordTokenizer.load(folder / TOKENIZER, config.text.encoder.max_length)
    else:
        backbone = TextBackbone.load(folder / TEXT_BACKBONE)
    return StoredModel(folder, config, tokenizer, backbone, dual)


def _locate(name: str | Path) -> Path:
    folder = Path(name)
    for candidate in (folder, folder / "model"):
        restore_folder(candidate)
        if (candidate / SETTINGS).is_file() or (candidate / CONFIGURATION).is_file():
            return candidate
    if (folder / ENSEMBLE).is_file():
        raise CrossAlignError(
            f"{folder}: an ensemble of several models, here one is needed; give one of those in {folder / 'members'}"
        )
    if folder.exists():
        raise CrossAlignError(
            f"{folder}: no model in it ({SETTINGS} is missing); give a model or a training run"
        )
    if str(name).count("/") != 1 or str(name).startswith((".", "/")):
        raise CrossAlignError(f"{name}: no such model folder")
    if folder.parent.exists():
        raise CrossAlignError(
            f"{name}: no such model folder (as '{folder.parent}' is here, the Hugging Face Hub was not asked); "
            "check the path"
        )
    from huggingface_hub import snapshot_download

    try:
        # Weights of other frameworks than ours are of no use.
        return Path(snapshot_download(str(name), ignore_patterns=["*.h5", "*.msgpack", "*.ot"]))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CrossAlignError(
            f"{name}: no such folder, and the Hugging Face Hub did not give it ({reason})"
        ) from None
