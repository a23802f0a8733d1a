"""SGRAF: Paranioar/SGRAF, its modules SGR and SAF."""

from __future__ import annotations

from typing import Any, Literal

from crossalign.convert.checkpoint import Checkpoint, LayoutMismatchError
from crossalign.convert.layout import Plan, TowerLayout
from crossalign.convert.layouts.scan import IMAGE, unit_settings
from crossalign.convert.options import refuse_option
from crossalign.scorers.published import names_without_influence, published_modules

__all__ = ["SGRAF"]

TEXT = {"encoder.embedding": "embed", "encoder.gru": "cap_rnn"}
MODULES: tuple[Literal["SGR", "SAF"], ...] = ("SGR", "SAF")
# Its code writes both down as a number.
DROPOUT = 0.4


def _module(checkpoint: Checkpoint) -> Literal["SGR", "SAF"]:
    """Which of both: by its options, or without them by its keys."""
    told = checkpoint.options.get("module_name")
    for module in MODULES:
        if told == module:
            return module
    if told is not None:
        refuse_option(checkpoint, "module_name")
    for module in MODULES:
        if any(key.startswith(f"{module}_module.") for key in checkpoint.state("extra")):
            return module
    raise LayoutMismatchError(
        checkpoint.source, SGRAF.name, missing=[f"extra {module}_module" for module in MODULES]
    )


def _steps(checkpoint: Checkpoint) -> int:
    """SGR's steps: by its options, or without them by its keys; at most one more than it has keys of."""
    names = [key.split(".") for key in checkpoint.state("extra")]
    found = len({name[1] for name in names if name[0] == "SGR_module" and len(name) > 2})
    told = checkpoint.options.get("sgr_step", max(found, 1))
    if type(told) is not int or told < 1:
        refuse_option(checkpoint, "sgr_step")
    return min(told, found + 1)


def _plan(checkpoint: Checkpoint) -> Plan:
    module = _module(checkpoint)
    steps = _steps(checkpoint) if module == "SGR" else 0
    # The norm of the regions in their self-attention has one channel a place.
    places = checkpoint.tensor(SGRAF.name, "extra", "v_global_w.embedding_local.1.weight", 1)
    scorer: dict[str, Any] = {
        "kind": module.lower(),
        "similarity_dim": checkpoint.tensor(SGRAF.name, "extra", "sim_eval_w.weight", 2).shape[1],
        "regions": len(places),
        "dropout": DROPOUT,
        **({"steps": steps} if module == "SGR" else {}),
    }
    other = "SAF" if module == "SGR" else "SGR"
    return Plan(
        settings=unit_settings(checkpoint, SGRAF.name, scorer, "cap_rnn", DROPOUT),
        image=IMAGE,
        text=TEXT,
        scorer=published_modules(steps),
        checkpoint=checkpoint,
        left_out={"extra": names_without_influence(checkpoint.state("extra"), steps)},
        notes=(
            f"this is {module} alone; published numbers of SGRAF are of the mean of its scores and those of another "
            f"checkpoint, {other}'s",
        ),
    )


SGRAF = TowerLayout(
    name="sgraf",
    source="Paranioar/SGRAF: SGR or SAF",
    vocabulary="words",
    image_keys=("fc.weight",),
    text_keys=("embed.weight", "cap_rnn.weight_ih_l0"),
    extra_keys=("sim_eval_w.weight", "v_global_w.embedding_local.1.weight"),
    plan=_plan,
)
