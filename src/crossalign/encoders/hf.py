"""A Hugging Face text encoder as a source of token states: texts in, ``(B, W, H)`` out."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from crossalign.encoders.weights import require_finite, state_digest
from crossalign.errors import CrossAlignError, missing_extra
from crossalign.files import read_json, write_text
from crossalign.settings import Settings, parse_settings

__all__ = [
    "TextBackbone",
    "TextBackboneConfig",
    "checkpoint_blocks",
    "import_transformers",
    "network_settings",
    "resolve_name",
]

PACKAGE = "package:"
SETTINGS_FILE = "text_backbone.json"
_HALVES = ("t5", "mt5", "umt5")
"""Models of which the encoder is half, and stands by itself in the package."""
_OF_NO_EFFECT = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")


class TextBackboneConfig(Settings):
    """Which encoder and how it is read."""

    name: str = Field(
        description="a local folder, a hub name, or 'package:NAME/FOLDER': a folder of an installed package"
    )
    max_length: int = Field(
        default=64, gt=2, description="tokens, special ones included; longer texts are cut"
    )
    layer: int | None = Field(
        default=None, description="hidden layer whose states are read, 0 the embeddings; none: the last one"
    )
    weights_sha256: str | None = Field(
        default=None, description="checksum of the weights; filled in when loaded"
    )


class TextBackbone(nn.Module):
    """A Hugging Face encoder and its tokenizer.

    Args:
        config: settings; the attribute ``config`` has the checksum of the weights filled in.

    Attributes:
        dim: H, width of the token states.
        mask_token: id that stands for a masked or unknown word.
        padding_token: id that fills shorter texts.

    Raises:
        CrossAlignError: the package is missing, nothing is found by that name, it is no encoder, it has no
            such layer or too few positions, or its weights are incomplete or others than before.
    """

    def __init__(self, config: TextBackboneConfig) -> None:
        super().__init__()
        transformers = import_transformers()
        place = resolve_name(config.name)
        if Path(place).is_dir() and not (Path(place) / "config.json").is_file():
            raise CrossAlignError(
                f"text encoder '{config.name}': holds no config.json; give a model's folder"
            )
        try:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
            self.network: Any
            settings = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
            half = settings.model_type in _HALVES
            kind = "AutoModelForTextEncoding" if half else "AutoModel"
            self.network, report = getattr(transformers, kind).from_pretrained(
                place, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # the library raises many kinds, some of them bare
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CrossAlignError(
                f"text encoder '{config.name}' cannot be loaded ({reason}); give a local folder or a hub name"
            ) from None
        layers = getattr(self.network.config, "num_hidden_layers", None)
        if layers is None or (getattr(self.network.config, "is_encoder_decoder", False) and not half):
            raise CrossAlignError(
                f"text encoder '{config.name}': a {type(self.network).__name__} is no encoder of texts alone; "
                "give one, such as a BERT or a sentence encoder"
            )
        # Weights stored in half precision come as such: a CPU is slow with them, and fine-tuning loses its steps.
        self.network.float()
        # Token states need no sentence vector; many weights files lack its layer, which would then be random.
        if isinstance(getattr(self.network, "pooler", None), nn.Module):
            self.network.pooler = None
        lacking = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
        if lacking:
            raise CrossAlignError(
                f"text encoder '{config.name}': its weights lack {', '.join(lacking[:3])} "
                f"({len(lacking)} in all); give the folder of a complete encoder"
            )
        if config.layer is not None and not 0 <= config.layer <= layers:
            raise CrossAlignError(
                f"text encoder '{config.name}': has layers 0 to {layers}, not {config.layer}"
            )
        require_finite(self.network, f"text encoder '{config.name}'")
        digest = state_digest(self.network.state_dict())
        if config.weights_sha256 not in (None, digest):
            raise CrossAlignError(
                f"text encoder '{config.name}': not the weights that were used before (their checksum begins "
                f"with {digest[:12]}, not {str(config.weights_sha256)[:12]}); give the original ones"
            )
        self.config = config.model_copy(update={"weights_sha256": digest})
        self.dim: int = self._probe()
        token = self.tokenizer.mask_token_id
        self.mask_token: int = self.tokenizer.unk_token_id if token is None else token
        self.padding_token: int = self.tokenizer.pad_token_id

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids ``(B, W)`` and mask ``(B, W)``, special tokens included."""
        batch = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.config.max_length, return_tensors="pt"
        )
        return batch["input_ids"], batch["attention_mask"].bool()

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span ``(start, end)`` of each token of one text; ``(0, 0)`` for special tokens."""
        batch = self.tokenizer(
            text, truncation=True, max_length=self.config.max_length, return_offsets_mapping=True
        )
        return [(int(start), int(end)) for start, end in batch["offset_mapping"]]

    def tokenizer_json(self) -> str:
        """What the tokenizer does, as JSON that is the same before and after use."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        # Every call leaves its own truncation and padding behind.
        whole = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
        return json.dumps(whole, sort_keys=True)

    def described(self) -> str:
        """What makes texts into token states, weights by their checksum, as JSON; not where the encoder lies."""
        told = {
            "settings": self.config.model_dump(mode="json", exclude={"name"}),
            "network": network_settings(self.network.config),
            "tokenizer": self.tokenizer_json(),
            # The tokenizer's own JSON does not tell these.
            "sides": [self.tokenizer.padding_side, self.tokenizer.truncation_side],
        }
        return json.dumps(told, sort_keys=True, default=str)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token states ``(B, W, H)`` of ids ``(B, W)`` with mask ``(B, W)``."""
        inner = self.config.layer is not None
        output = self.network(
            input_ids=tokens,
            attention_mask=mask.to(tokens.dtype),
            output_hidden_states=inner,
            return_dict=True,
        )
        states: Tensor = output.hidden_states[self.config.layer] if inner else output.last_hidden_state
        return states

    def _probe(self) -> int:
        """Width of the token states. What cannot encode texts of every allowed length shows here, not in a run."""
        name, longest = self.config.name, self.config.max_length
        try:
            with torch.no_grad():
                tokens, mask = self.tokenize(["a", "a a"])
                width: int = self(tokens, mask).shape[-1]
        except Exception as error:  # every network that is no text encoder fails in its own way
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CrossAlignError(
                f"text encoder '{name}': a {type(self.network).__name__} makes no token states of texts ({reason}); "
                "give an encoder, such as a BERT or a sentence encoder"
            ) from None

        def fails(length: int) -> bool:
            ids = tokens[-1:, :1].expand(1, length)
            try:
                with torch.no_grad():
                    self(ids, torch.ones_like(ids))
            except (IndexError, RuntimeError):
                return True
            return False

        if fails(longest):
            possible = bisect_left(range(1, longest), True, key=fails)
            raise CrossAlignError(
                f"text encoder '{name}': reads {possible} tokens at most, not max_length: {longest}; lower max_length"
            )
        return width

    def save(self, folder: str | Path) -> None:
        """Write configuration, weights (safetensors) and tokenizer into ``folder``."""
        folder = Path(folder)
        self.network.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        # The weights may have been fine-tuned since they were loaded.
        name = Path(self.config.name).name if Path(self.config.name).exists() else self.config.name
        config = self.config.model_copy(update={"name": name, "weights_sha256": None})
        write_text(folder / SETTINGS_FILE, config.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> TextBackbone:
        """Load what :meth:`save` wrote."""
        path = Path(folder) / SETTINGS_FILE
        if not path.is_file():
            raise CrossAlignError(
                f"{path}: no such file; the model folder is not complete, save the model again"
            )
        config = parse_settings(
            TextBackboneConfig, read_json(path, "put a whole copy back, or save the model again"), str(path)
        )
        return cls(config.model_copy(update={"name": str(folder)}))


def checkpoint_blocks(network: Any) -> None:
    """Let a network of transformers compute its blocks again in the backward pass.

    Raises:
        ValueError: it cannot.
    """
    # As version 6 calls it, and as all before do.
    enable = (
        getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    )
    enable({"use_reentrant": False})


def network_settings(config: Any) -> dict[str, Any]:
    """The settings of a network of transformers, without where it came from and who wrote the file."""
    return {key: value for key, value in config.to_dict().items() if key not in _OF_NO_EFFECT}


def import_transformers(asked: str = "a Hugging Face text encoder") -> Any:
    """The package, without its bars and its notes.

    Args:
        asked: what needs it, for the message.

    Raises:
        CrossAlignError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise missing_extra("transformers", "text", asked) from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def resolve_name(name: str) -> str:
    """A folder or a hub name; ``package:NAME/FOLDER`` is a folder of an installed package.

    Raises:
        CrossAlignError: no such package.
    """
    if not name.startswith(PACKAGE):
        return name
    package, _, inner = name.removeprefix(PACKAGE).partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    if not folders:
        raise CrossAlignError(f"text encoder '{name}': no installed package '{package}'; install it with pip")
    return str(Path(folders[0]) / inner)
