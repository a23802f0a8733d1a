"""VSE-infinity on region features with BERT: woodfrog/vse_infty."""

from __future__ import annotations

from crossalign.convert.checkpoint import Checkpoint
from crossalign.convert.layout import Plan, TowerLayout
from crossalign.convert.layouts.vse_infinity import (
    IMAGE,
    IMAGE_KEYS,
    IMAGE_LEFT_OUT,
    image_settings,
    with_folded_perceptron,
)
from crossalign.convert.options import refuse_options

__all__ = ["VSE_INFINITY_BERT"]

TEXT = {"encoder.projection": "linear", "encoder.pooling": "gpool"}


def _plan(checkpoint: Checkpoint) -> Plan:
    refuse_options(checkpoint, falsy=("no_imgnorm", "no_txtnorm"))
    dim, image = image_settings(checkpoint, VSE_INFINITY_BERT.name)
    return Plan(
        settings={
            "dim": dim,
            "image": image,
            "text": {"encoder": {"kind": "pooled", "projection": "linear", "pooling": "gpo"}},
        },
        image=IMAGE,
        text=TEXT,
        checkpoint=with_folded_perceptron(checkpoint, VSE_INFINITY_BERT.name),
        left_out={"image": IMAGE_LEFT_OUT},
    )


VSE_INFINITY_BERT = TowerLayout(
    name="vse-infinity-bert",
    source="woodfrog/vse_infty: VSE-infinity, region features and BERT",
    vocabulary="bert",
    image_keys=IMAGE_KEYS,
    text_keys=("bert.embeddings.word_embeddings.weight", "linear.weight", "gpool.linear.weight"),
    plan=_plan,
)
