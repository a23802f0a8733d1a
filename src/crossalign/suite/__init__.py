"""One model on everything its data allows: sentences, captions, classes, judgements, and one report."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossalign.suite.class_layouts import LabelledPhotos, read_labelled_photos
    from crossalign.suite.eccv import eccv_metrics
    from crossalign.suite.further import FurtherData
    from crossalign.suite.run import evaluate_suite
    from crossalign.suite.sentence_encoder import SentenceEncoder
    from crossalign.suite.sts import sentence_similarity
    from crossalign.suite.sts_files import SentencePairs, read_sts
    from crossalign.suite.subject import open_subject

__all__ = [
    "FurtherData",
    "LabelledPhotos",
    "SentenceEncoder",
    "SentencePairs",
    "eccv_metrics",
    "evaluate_suite",
    "open_subject",
    "read_labelled_photos",
    "read_sts",
    "sentence_similarity",
]

_HOMES = {
    "FurtherData": "further",
    "LabelledPhotos": "class_layouts",
    "SentenceEncoder": "sentence_encoder",
    "SentencePairs": "sts_files",
    "eccv_metrics": "eccv",
    "evaluate_suite": "run",
    "open_subject": "subject",
    "read_labelled_photos": "class_layouts",
    "read_sts": "sts_files",
    "sentence_similarity": "sts",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
