"""Fast and accurate image-text retrieval: train, evaluate, explain and serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossalign.lazy import loaded_on_first_use

__version__ = "0.1.0"
__all__ = ["Encoding", "RetrievalModel", "__version__"]

if TYPE_CHECKING:
    from crossalign.encoding import Encoding
    from crossalign.model import RetrievalModel

# `crossalign --help` must not wait for torch.
__getattr__ = loaded_on_first_use(__name__, {"Encoding": "encoding", "RetrievalModel": "model"})
