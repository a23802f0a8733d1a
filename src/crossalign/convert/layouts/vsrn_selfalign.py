"""VSRN with SelfAlign: vsrn_SelfAlign of Zjamie813/SelfAlign."""

from __future__ import annotations

from crossalign.convert.checkpoint import Checkpoint
from crossalign.convert.layout import CONTEXT_HEAD, Plan, TowerLayout
from crossalign.convert.layouts.vsrn import IMAGE, IMAGE_KEYS, TEXT, vsrn_settings
from crossalign.convert.options import refuse_options

__all__ = ["VSRN_SELFALIGN"]

PADDED = (
    "the published context vectors of a caption depend on the longest caption of its batch; "
    "these are those of the caption alone"
)


def _plan(checkpoint: Checkpoint) -> Plan:
    refuse_options(checkpoint, truthy=("ctx_relu",))
    settings = vsrn_settings(checkpoint, VSRN_SELFALIGN.name, projection=True)
    return Plan(
        settings={**settings, "context_head": True, "context_weight": 0.5},
        image={**IMAGE, **CONTEXT_HEAD},
        text={**TEXT, "encoder.projection": "local_fc", **CONTEXT_HEAD},
        checkpoint=checkpoint,
        # The codebook of Local Concept Alignment.
        left_out={"extra": ("v_prototypes",)},
        notes=(PADDED,),
    )


VSRN_SELFALIGN = TowerLayout(
    name="vsrn-selfalign",
    source="Zjamie813/SelfAlign, vsrn_SelfAlign: VSRN with SelfAlign",
    vocabulary="words",
    image_keys=(*IMAGE_KEYS, "ctx_fc.weight"),
    text_keys=("embed.weight", "rnn.weight_ih_l0", "local_fc.weight", "ctx_fc.weight"),
    plan=_plan,
)
