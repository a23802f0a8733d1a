"""CAMERA with SelfAlign: camera_SelfAlign of Zjamie813/SelfAlign."""

from __future__ import annotations

from crossalign.convert.checkpoint import Checkpoint
from crossalign.convert.layout import CONTEXT_HEAD, Plan, TowerLayout
from crossalign.convert.layouts.camera import (
    IMAGE,
    IMAGE_KEYS,
    TEXT,
    TEXT_KEYS,
    camera_settings,
    caption_length,
)
from crossalign.convert.options import refuse_options

__all__ = ["CAMERA_SELFALIGN"]


def _plan(checkpoint: Checkpoint) -> Plan:
    refuse_options(checkpoint, truthy=("ctx_fc_relu",))
    length, notes = caption_length(checkpoint)
    settings = camera_settings(checkpoint, CAMERA_SELFALIGN.name, "words")
    return Plan(
        settings={**settings, "context_head": True, "context_weight": 0.5},
        image={**IMAGE, **CONTEXT_HEAD},
        text={**TEXT, **CONTEXT_HEAD},
        checkpoint=checkpoint,
        # The codebook of Local Concept Alignment.
        left_out={"extra": ("v_prototypes",)},
        max_length=length,
        notes=notes,
    )


CAMERA_SELFALIGN = TowerLayout(
    name="camera-selfalign",
    source="Zjamie813/SelfAlign, camera_SelfAlign: CAMERA with SelfAlign",
    vocabulary="bert",
    image_keys=(*IMAGE_KEYS, "ctx_fc.weight"),
    text_keys=(*TEXT_KEYS, "ctx_fc.weight"),
    plan=_plan,
)
