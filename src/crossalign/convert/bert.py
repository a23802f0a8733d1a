"""The BERT inside a published checkpoint as a text backbone of ours."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from crossalign.convert.translate import Differences, translate, without
from crossalign.encoders.hf import TextBackbone, TextBackboneConfig, import_transformers
from crossalign.errors import CrossAlignError
from crossalign.files import read_json

__all__ = ["PREFIX", "published_bert"]

PREFIX = "bert."
# Of the sentence vector, and constants that some releases of transformers keep.
_SENTENCE = ("pooler",)
_CONSTANTS = ("embeddings.position_ids", "embeddings.token_type_ids")
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_SETTINGS = ("config.json", "bert_config.json")
_WORDS = "vocab.txt"


def published_bert(
    state: Mapping[str, Tensor], place: str | Path, max_length: int | None, differences: Differences
) -> tuple[TextBackbone | None, list[str]]:
    """The encoder of the keys that begin with ``bert.``, and which of them were left out.

    Args:
        state: the text part of the checkpoint.
        place: folder of the BERT that training began with, or a file in it: its word list ``vocab.txt`` and its
            settings ``config.json`` or ``bert_config.json``. Its weights are not read.
        max_length: tokens a caption; ``None``: as many as it has positions.
        differences: is told which keys do not fit.

    Returns:
        No encoder where keys do not fit.

    Raises:
        CrossAlignError: the folder lacks a file, or its words are not those of the checkpoint.
    """
    transformers = import_transformers("a checkpoint with BERT")
    folder, settings = _settings(Path(place))
    try:
        config = transformers.BertConfig.from_dict(settings)
        network = transformers.BertModel(config, add_pooling_layer=False)
    except Exception as error:  # the library raises many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CrossAlignError(f"{folder}: its settings make no BERT ({reason}); fetch them again") from None
    own = network.state_dict()
    published = {
        _renamed(key.removeprefix(PREFIX)): tensor for key, tensor in state.items() if key.startswith(PREFIX)
    }
    published, pooler = without(published, _SENTENCE)
    left_out = [*pooler, *(key for key in _CONSTANTS if published.pop(key, None) is not None)]
    found = Differences()
    tensors = translate(own, published, {_top(key): _top(key) for key in own}, "text", found)
    for kind in ("missing", "unknown", "shapes"):
        getattr(differences, kind).extend(
            line.replace("text ", f"text {PREFIX}", 1) for line in getattr(found, kind)
        )
    left_out = [f"text {PREFIX}{key}" for key in left_out]
    if found:
        return None, left_out
    network.load_state_dict(tensors, strict=False)
    _check_words(folder / _WORDS, config.vocab_size)
    with tempfile.TemporaryDirectory() as temporary:
        saved = Path(temporary) / "bert"
        network.save_pretrained(saved, safe_serialization=True)
        # The word list alone: a tokenizer.json beside it may keep capitals.
        shutil.copyfile(folder / _WORDS, saved / _WORDS)
        tokenizer = transformers.BertTokenizerFast
        tokenizer.from_pretrained(saved, do_lower_case=True).save_pretrained(saved)
        backbone = TextBackbone(
            TextBackboneConfig(name=str(saved), max_length=max_length or config.max_position_embeddings)
        )
    backbone.config = backbone.config.model_copy(update={"name": "bert"})
    return backbone, left_out


def _settings(place: Path) -> tuple[Path, dict[str, Any]]:
    folder = place if place.is_dir() else place.parent
    found = next((folder / name for name in _SETTINGS if (folder / name).is_file()), None)
    if found is None or not (folder / _WORDS).is_file():
        raise CrossAlignError(
            f"{place}: no BERT: its folder must hold {_WORDS} and {' or '.join(_SETTINGS)}; "
            "fetch both of the encoder that the checkpoint was trained with (usually bert-base-uncased)"
        )
    settings = read_json(found)
    if not isinstance(settings, dict) or "num_attention_heads" not in settings:
        raise CrossAlignError(f"{found}: not the settings of a BERT; fetch the file again")
    return folder, settings


def _check_words(path: Path, expected: int) -> None:
    # Some of the words are what other ways of splitting take for the end of a line.
    try:
        words = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise CrossAlignError(f"{path}: not UTF-8 (byte {error.start}); fetch the file again") from None
    if len(words) != expected or len(set(words)) != expected:
        raise CrossAlignError(
            f"{path}: {len(words)} words, but the settings beside it say {expected}; fetch both again"
        )


def _renamed(key: str) -> str:
    for old, new in _OLD_NAMES.items():
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key


def _top(key: str) -> str:
    return key.partition(".")[0]
