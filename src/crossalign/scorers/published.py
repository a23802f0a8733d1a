"""Parameters of the published SGRAF code (Paranioar/SGRAF, ``EncoderSimilarity``) under our names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from crossalign.errors import CrossAlignError

__all__ = ["PUBLISHED_NAMES", "from_published", "names_without_influence", "published_modules"]

_NORM = ("weight", "bias", "running_mean", "running_var")
_LINEAR = ("weight", "bias")


def _names(published: str, ours: str, parts: tuple[str, ...]) -> dict[str, str]:
    return {f"{published}.{part}": f"{ours}.{part}" for part in parts}


PUBLISHED_NAMES: Mapping[str, str] = {
    **_names("v_global_w.embedding_local.0", "image_summary.unit", _LINEAR),
    **_names("v_global_w.embedding_local.1", "image_summary.unit_norm", _NORM),
    **_names("v_global_w.embedding_global.0", "image_summary.mean", _LINEAR),
    **_names("v_global_w.embedding_global.1", "image_summary.mean_norm", _NORM),
    "v_global_w.embedding_common.0.weight": "image_summary.attention.weight",
    **_names("t_global_w.embedding_local.0", "text_summary.unit", _LINEAR),
    **_names("t_global_w.embedding_global.0", "text_summary.mean", _LINEAR),
    "t_global_w.embedding_common.0.weight": "text_summary.attention.weight",
    **_names("sim_tranloc_w", "local_projection", _LINEAR),
    **_names("sim_tranglo_w", "global_projection", _LINEAR),
    **_names("sim_eval_w", "score_head", _LINEAR),
    **_names("SAF_module.attn_sim_w", "gate", _LINEAR),
    **_names("SAF_module.bn", "gate_norm", _NORM),
}
"""Published name to ours; SGR's steps, ``SGR_module.{i}``, follow below the table."""

_STEP_NAMES = {
    **_names("graph_query_w", "query", _LINEAR),
    "graph_key_w.weight": "key.weight",
    **_names("sim_graph_w", "output", _LINEAR),
}
_WITHOUT_INFLUENCE = ("embedding_common.0.bias", "graph_key_w.bias", "num_batches_tracked")
"""Biases that add the same to every logit of a softmax, and counters."""


def published_modules(steps: int) -> dict[str, str]:
    """The published module of each of ours: what SGR and SAF share, SAF's own, and so many steps of SGR's."""
    modules = {_module(ours): _module(published) for published, ours in PUBLISHED_NAMES.items()}
    for step in range(steps):
        for published, ours in _STEP_NAMES.items():
            modules[f"steps.{step}.{_module(ours)}"] = f"SGR_module.{step}.{_module(published)}"
    return modules


def names_without_influence(state: Mapping[str, Tensor], steps: int) -> tuple[str, ...]:
    """The names in a published state dict that change nothing; ``steps`` of SGR's, none for SAF."""
    known = set(published_modules(steps).values())
    return tuple(name for name in state if name.endswith(_WITHOUT_INFLUENCE) and _module(name) in known)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of an :class:`SGRScorer` or :class:`SAFScorer` from that of the published module.

    Left out, because they change nothing: ``*.embedding_common.0.bias``, ``*.graph_key_w.bias`` and
    ``*.num_batches_tracked``.

    Raises:
        CrossAlignError: names that are none of the published module.
    """
    converted, unknown = {}, []
    for name, tensor in state.items():
        module, _, rest = name.partition(".")
        step, _, part = rest.partition(".")
        if name.endswith(_WITHOUT_INFLUENCE):
            continue
        if name in PUBLISHED_NAMES:
            converted[PUBLISHED_NAMES[name]] = tensor
        elif module == "SGR_module" and step.isdecimal() and part in _STEP_NAMES:
            converted[f"steps.{step}.{_STEP_NAMES[part]}"] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise CrossAlignError(f"SGRAF state dict: {len(unknown)} unknown names, first {unknown[:3]}")
    return converted
