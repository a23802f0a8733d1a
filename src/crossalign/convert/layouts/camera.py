"""CAMERA: LgQu/CAMERA."""

from __future__ import annotations

from typing import Any, Literal

from crossalign.convert.checkpoint import Checkpoint
from crossalign.convert.layout import Plan, TowerLayout

__all__ = ["CAMERA", "IMAGE", "IMAGE_KEYS", "TEXT", "TEXT_KEYS", "camera_settings", "caption_length"]

ATTENTION = {
    "query": "att_layers.0.linears.0",
    "key": "att_layers.0.linears.1",
    "value": "att_layers.0.linears.2",
    "gate_query": "att_layers.0.fc_q",
    "gate_key": "att_layers.0.fc_k",
    "gate": "att_layers.0.fc_g",
    "norm": "bns.0",
}
_ATTENTION = {f"encoder.attention.{ours}": f"agsa.{theirs}" for ours, theirs in ATTENTION.items()}
IMAGE = {
    "encoder.projection": "fc",
    "encoder.positions.projection": "position_enc.proj",
    "encoder.summarization.convolutions": "mvs.convs_dilate",
    "encoder.summarization.views": "mvs.convs_fc",
    **_ATTENTION,
}
TEXT = {
    "encoder.projection": "mapping",
    "encoder.perceptron.0": "fc1",
    "encoder.perceptron.3": "fc2",
    "encoder.norm": "bn",
    **_ATTENTION,
}
IMAGE_KEYS = ("agsa.att_layers.0.fc_q.weight", "mvs.convs_fc.weight")
TEXT_KEYS = ("bert.embeddings.word_embeddings.weight", "mapping.weight", "agsa.att_layers.0.fc_q.weight")
# Default of its training script.
CAPTION_LENGTH = 32


def camera_settings(
    checkpoint: Checkpoint, layout: str, text_axis: Literal["words", "none"]
) -> dict[str, Any]:
    """Settings of both towers."""
    dim, feature_dim = checkpoint.tensor(layout, "image", "fc.weight", 2).shape
    # A head's gate is as wide as the head.
    heads = {
        part: dim // max(len(checkpoint.tensor(layout, part, "agsa.att_layers.0.fc_q.weight", 2)), 1)
        for part in ("image", "text")
    }
    regions = {
        "kind": "camera",
        "heads": heads["image"],
        "views": len(checkpoint.tensor(layout, "image", "mvs.convs_fc.weight", 2)),
        "channels": len(checkpoint.tensor(layout, "image", "mvs.convs_dilate.1.weight", 3)),
        "norm_axis": "regions",
    }
    words = {"kind": "camera", "heads": heads["text"], "norm_axis": text_axis, "count_padding": True}
    return {
        "dim": dim,
        "image": {"feature_dim": feature_dim, "encoder": regions},
        "text": {"encoder": words},
    }


def caption_length(checkpoint: Checkpoint) -> tuple[int, tuple[str, ...]]:
    """Tokens that every caption is cut or padded to, and a note where the checkpoint does not say it."""
    length = checkpoint.options.get("max_words")
    if isinstance(length, int) and length > 2:
        return length, ()
    return CAPTION_LENGTH, (
        f"the checkpoint does not say its max_words; captions are padded to {CAPTION_LENGTH} tokens, "
        "the default of its training script",
    )


def _plan(checkpoint: Checkpoint) -> Plan:
    length, notes = caption_length(checkpoint)
    return Plan(
        settings=camera_settings(checkpoint, CAMERA.name, "none"),
        image=IMAGE,
        text=TEXT,
        checkpoint=checkpoint,
        left_out={},
        max_length=length,
        notes=notes,
    )


CAMERA = TowerLayout(
    name="camera",
    source="LgQu/CAMERA: CAMERA",
    vocabulary="bert",
    image_keys=IMAGE_KEYS,
    text_keys=TEXT_KEYS,
    without_keys=("ctx_fc.weight",),
    plan=_plan,
)
