"""SCAN: kuanghuei/SCAN."""

from __future__ import annotations

from typing import Any, get_args

import torch

from crossalign.convert.checkpoint import Checkpoint, LayoutMismatchError
from crossalign.convert.layout import Plan, TowerLayout
from crossalign.convert.options import choice_option, positive_option, refuse_options
from crossalign.convert.vocabulary import LONGEST
from crossalign.scorers.attention import RAW_FEATURE_NORMS
from crossalign.scorers.scan import Aggregation, Direction

__all__ = ["IMAGE", "SCAN", "unit_settings"]

IMAGE = {"encoder.projection": "fc"}
TEXT = {"encoder.embedding": "embed", "encoder.gru": "rnn"}


def unit_settings(
    checkpoint: Checkpoint, layout: str, scorer: dict[str, Any], gru: str, dropout: float = 0.0
) -> dict[str, Any]:
    """Settings of a model that compares projected regions with the states of a GRU over words.

    Args:
        scorer: its settings.
        gru: published name of the GRU.
        dropout: of the published word embeddings.

    Raises:
        LayoutMismatchError: a key is missing or has another number of sides.
        CrossAlignError: units that are not of unit norm, or several layers of the GRU.
    """
    refuse_options(checkpoint, falsy=("no_imgnorm", "no_txtnorm"), only={"num_layers": 1})
    dim, feature_dim = checkpoint.tensor(layout, "image", "fc.weight", 2).shape
    word_dim = checkpoint.tensor(layout, "text", "embed.weight", 2).shape[1]
    backwards = any(
        key.startswith(f"{gru}.") and key.endswith("_reverse") for key in checkpoint.state("text")
    )
    words = {
        "kind": "gru", "word_dim": word_dim, "projection": False,
        "bidirectional": bool(checkpoint.options.get("bi_gru", backwards)), "pooling": "mean",
        "splitting": "treebank", "borders": True, "max_length": LONGEST, "dropout": dropout,
    }  # fmt: skip
    return {
        "dim": dim,
        "scorer": scorer,
        "image": {
            "feature_dim": feature_dim,
            "encoder": {"kind": "pooled", "projection": "linear", "pooling": "mean"},
        },
        "text": {"encoder": words},
    }


def _scorer(checkpoint: Checkpoint) -> dict[str, Any]:
    """SCAN has no parameters for its scores: its options alone tell them."""
    settings: dict[str, Any] = {
        "kind": "scan",
        "direction": choice_option(checkpoint, "cross_attn", get_args(Direction)),
        "raw_feature_norm": choice_option(checkpoint, "raw_feature_norm", RAW_FEATURE_NORMS),
        "aggregation": choice_option(checkpoint, "agg_func", get_args(Aggregation)),
        "lambda_softmax": positive_option(checkpoint, "lambda_softmax"),
    }
    if settings["aggregation"] == "LogSumExp":
        settings["lambda_lse"] = positive_option(checkpoint, "lambda_lse")
    return settings


def _with_plain_projection(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with a weight that its ``weight_norm`` encoder keeps as a direction and one length."""
    image = dict(checkpoint.state("image"))
    if "fc.weight" in image or not {"fc.weight_g", "fc.weight_v"} & image.keys():
        return checkpoint
    direction = checkpoint.tensor(SCAN.name, "image", "fc.weight_v", 2).double()
    length = image.get("fc.weight_g")
    if length is None:
        raise LayoutMismatchError(checkpoint.source, SCAN.name, missing=["image fc.weight_g"])
    if length.numel() != 1:
        shape = "x".join(str(side) for side in length.shape)
        raise LayoutMismatchError(
            checkpoint.source, SCAN.name, missing=[], shapes=[f"image fc.weight_g {shape} for one number"]
        )
    del image["fc.weight_g"], image["fc.weight_v"]
    image["fc.weight"] = direction * (length.double().reshape(()) / torch.linalg.vector_norm(direction))
    return Checkpoint(checkpoint.source, (image, *checkpoint.parts[1:]), checkpoint.options)


def _plan(checkpoint: Checkpoint) -> Plan:
    scorer = _scorer(checkpoint)
    checkpoint = _with_plain_projection(checkpoint)
    return Plan(
        settings=unit_settings(checkpoint, SCAN.name, scorer, "rnn"),
        image=IMAGE,
        text=TEXT,
        checkpoint=checkpoint,
        left_out={},
    )


SCAN = TowerLayout(
    name="scan",
    source="kuanghuei/SCAN: SCAN",
    vocabulary="words",
    image_keys=("fc.bias",),
    text_keys=("embed.weight", "rnn.weight_ih_l0"),
    # Of VSE-infinity, VSRN and VSRN with SelfAlign.
    without_keys=("mlp.layers.0.weight", "gpool.linear.weight", "img_rnn.weight_ih_l0", "local_fc.weight"),
    plan=_plan,
)
