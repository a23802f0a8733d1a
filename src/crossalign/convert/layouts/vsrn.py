"""VSRN: KunpengLi1994/VSRN."""

from __future__ import annotations

from typing import Any

from crossalign.convert.checkpoint import Checkpoint
from crossalign.convert.layout import Plan, TowerLayout
from crossalign.convert.options import refuse_options
from crossalign.convert.vocabulary import LONGEST

__all__ = ["IMAGE", "IMAGE_KEYS", "TEXT", "VSRN", "vsrn_settings"]

LAYERS = 4
RELATION = {"query": "theta", "key": "phi", "value": "g", "output": "W.0", "norm": "W.1"}
IMAGE = {
    "encoder.projection": "fc",
    "encoder.gru": "img_rnn",
    "encoder.embedding_norm": "bn",
    **{
        f"encoder.relations.{layer}.{ours}": f"Rs_GCN_{layer + 1}.{theirs}"
        for layer in range(LAYERS)
        for ours, theirs in RELATION.items()
    },
}
IMAGE_KEYS = ("Rs_GCN_1.theta.weight", "img_rnn.weight_ih_l0")
TEXT = {"encoder.embedding": "embed", "encoder.gru": "rnn"}


def vsrn_settings(checkpoint: Checkpoint, layout: str, *, projection: bool) -> dict[str, Any]:
    """Settings of both towers. The Flickr30K model alone has a batch norm and leaves out the first normalisation."""
    refuse_options(checkpoint, falsy=("use_abs", "no_imgnorm", "finetune"))
    dim, feature_dim = checkpoint.tensor(layout, "image", "fc.weight", 2).shape
    word_dim = checkpoint.tensor(layout, "text", "embed.weight", 2).shape[1]
    flickr = any(key.startswith("bn.") for key in checkpoint.state("image"))
    regions = {
        "kind": "vsrn", "layers": LAYERS, "norm_axis": "regions", "normalize_projection": not flickr,
        "embedding_norm": flickr,
    }  # fmt: skip
    words = {
        "kind": "gru", "word_dim": word_dim, "projection": projection, "bidirectional": False, "pooling": "last",
        "splitting": "treebank", "borders": True, "max_length": LONGEST,
    }  # fmt: skip
    return {
        "dim": dim,
        "image": {"feature_dim": feature_dim, "encoder": regions},
        "text": {"encoder": words},
    }


def _plan(checkpoint: Checkpoint) -> Plan:
    return Plan(
        settings=vsrn_settings(checkpoint, VSRN.name, projection=False),
        image=IMAGE,
        text=TEXT,
        checkpoint=checkpoint,
        left_out={},
    )


VSRN = TowerLayout(
    name="vsrn",
    source="KunpengLi1994/VSRN: VSRN",
    vocabulary="words",
    image_keys=IMAGE_KEYS,
    text_keys=("embed.weight", "rnn.weight_ih_l0"),
    without_keys=("local_fc.weight", "ctx_fc.weight"),
    plan=_plan,
)
