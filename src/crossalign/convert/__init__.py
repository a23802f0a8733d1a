"""Checkpoints of published code into model folders."""

from crossalign.convert.checkpoint import Checkpoint, LayoutMismatchError, open_checkpoint
from crossalign.convert.layouts import LAYOUTS
from crossalign.convert.run import Conversion, convert_checkpoint
from crossalign.convert.unpickle import read_pickled
from crossalign.convert.vocabulary import read_vocabulary

__all__ = [
    "LAYOUTS",
    "Checkpoint",
    "Conversion",
    "LayoutMismatchError",
    "convert_checkpoint",
    "open_checkpoint",
    "read_pickled",
    "read_vocabulary",
]
