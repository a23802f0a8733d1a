"""Fast and accurate image-text retrieval: train, evaluate, explain and serve."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Encoding", "RetrievalModel", "__version__"]

if TYPE_CHECKING:
    from crossalign.encoding import Encoding
    from crossalign.model import RetrievalModel

_HOMES = {"Encoding": "crossalign.encoding", "RetrievalModel": "crossalign.model"}


def __getattr__(name: str) -> Any:
    # Loaded on first use: `crossalign --help` must not wait for torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'crossalign' has no attribute '{name}'")
