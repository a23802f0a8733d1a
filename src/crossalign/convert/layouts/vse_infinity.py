"""VSE-infinity on region features with a BiGRU: branch ``bigru`` of woodfrog/vse_infty."""

from __future__ import annotations

from typing import Any

from crossalign.convert.checkpoint import Checkpoint
from crossalign.convert.layout import Plan, TowerLayout
from crossalign.convert.options import refuse_options
from crossalign.convert.translate import fold_batch_norm
from crossalign.convert.vocabulary import LONGEST

__all__ = [
    "IMAGE",
    "IMAGE_KEYS",
    "IMAGE_LEFT_OUT",
    "VSE_INFINITY",
    "image_settings",
    "with_folded_perceptron",
]

IMAGE = {
    "encoder.projection": "fc",
    "encoder.perceptron.0": "mlp.layers.0",
    "encoder.perceptron.3": "mlp.layers.1",
    "encoder.pooling": "gpool",
}
IMAGE_KEYS = ("mlp.layers.0.weight", "gpool.linear.weight")
# The perceptron's second batch norm is built, saved and never called.
IMAGE_LEFT_OUT = ("mlp.bns.1",)
TEXT = {"encoder.embedding": "embed", "encoder.gru": "rnn", "encoder.pooling": "gpool"}


def image_settings(checkpoint: Checkpoint, layout: str) -> tuple[int, dict[str, Any]]:
    """D and the settings of the image tower."""
    dim, feature_dim = checkpoint.tensor(layout, "image", "fc.weight", 2).shape
    hidden = len(checkpoint.tensor(layout, "image", "mlp.layers.0.weight", 2))
    encoder = {
        "kind": "pooled", "projection": "mlp", "pooling": "gpo", "hidden": hidden, "activation": "relu"
    }  # fmt: skip
    return dim, {"feature_dim": feature_dim, "encoder": encoder}


def with_folded_perceptron(checkpoint: Checkpoint, layout: str) -> Checkpoint:
    """The checkpoint with the perceptron's batch norm in its first layer."""
    for part in ("weight", "bias", "running_mean", "running_var"):
        checkpoint.tensor(layout, "image", f"mlp.bns.0.{part}", 1)
    checkpoint.tensor(layout, "image", "mlp.layers.0.bias", 1)
    image = fold_batch_norm(checkpoint.state("image"), "mlp.layers.0", "mlp.bns.0")
    return Checkpoint(checkpoint.source, (image, *checkpoint.parts[1:]), checkpoint.options)


def _plan(checkpoint: Checkpoint) -> Plan:
    refuse_options(checkpoint, falsy=("no_imgnorm", "no_txtnorm"))
    dim, image = image_settings(checkpoint, VSE_INFINITY.name)
    word_dim = checkpoint.tensor(VSE_INFINITY.name, "text", "embed.weight", 2).shape[1]
    words = {
        "kind": "gru", "word_dim": word_dim, "projection": False, "pooling": "gpo", "splitting": "treebank",
        "borders": True, "max_length": LONGEST,
    }  # fmt: skip
    return Plan(
        settings={"dim": dim, "image": image, "text": {"encoder": words}},
        image=IMAGE,
        text=TEXT,
        checkpoint=with_folded_perceptron(checkpoint, VSE_INFINITY.name),
        left_out={"image": IMAGE_LEFT_OUT},
        mask_word=True,
    )


VSE_INFINITY = TowerLayout(
    name="vse-infinity",
    source="woodfrog/vse_infty, branch bigru: VSE-infinity, region features and BiGRU",
    vocabulary="words",
    image_keys=IMAGE_KEYS,
    text_keys=("embed.weight", "rnn.weight_ih_l0_reverse", "gpool.linear.weight"),
    plan=_plan,
)
