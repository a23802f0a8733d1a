"""SCAN and SGRAF once more: units and scores from state dicts in the published key layout, in evaluation.

Written from what the published code computes: one caption at a time, cut to its length, against all images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from published_code import Draw, State, batch_norm, both_ways, gru, l2norm, linear

# ---- units


def regions(state: State, images: Tensor) -> Tensor:
    """Unit vectors ``(B, R, D)``."""
    if "fc.weight_v" in state:
        direction = state["fc.weight_v"]
        weight = direction * state["fc.weight_g"] / direction.pow(2).sum().sqrt()
        return l2norm(images @ weight.T + state["fc.bias"], -1)
    return l2norm(linear(state, "fc", images), -1)


def words(state: State, name: str, captions: list[list[int]]) -> Tensor:
    """Unit vectors ``(C, W, D)``, zeros behind a caption's end."""
    rows = []
    for ids in captions:
        embedded = state["embed.weight"][torch.tensor(ids)]
        backwards = f"{name}.weight_ih_l0_reverse" in state
        rows.append(l2norm((both_ways if backwards else gru)(state, name, embedded), -1))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


# ---- scores


def attended(queries: Tensor, context: Tensor, norm: str, smooth: float) -> Tensor:
    """What queries ``(n, Q, D)`` see in contexts ``(n, C, D)``: ``(n, Q, D)``."""
    raw = context @ queries.transpose(1, 2)
    if norm.startswith("clipped"):
        raw = torch.where(raw > 0, raw, raw * 0.1)
    if norm == "softmax":
        raw = raw.softmax(dim=2)
    elif norm.endswith("l2norm"):
        raw = raw / (raw.pow(2).sum(dim=2, keepdim=True).sqrt() + 1e-8)
    elif norm.endswith("l1norm"):
        raw = raw / (raw.abs().sum(dim=2, keepdim=True) + 1e-8)
    weights = (raw.transpose(1, 2) * smooth).softmax(dim=2)
    return weights @ context


def scan_scores(images: Tensor, captions: Tensor, lengths: list[int], options: dict[str, object]) -> Tensor:
    """Scores ``(B, C)`` by the options of the training script."""
    smooth, sharpness = float(str(options["lambda_softmax"])), float(str(options["lambda_lse"]))
    columns = []
    for caption, length in zip(captions, lengths, strict=True):
        text = caption[:length].expand(len(images), -1, -1)
        queries, context = (text, images) if options["cross_attn"] == "t2i" else (images, text)
        seen = attended(queries, context, str(options["raw_feature_norm"]), smooth)
        cosines = (queries * seen).sum(dim=2) / (queries.norm(dim=2) * seen.norm(dim=2)).clamp(min=1e-8)
        columns.append(
            {
                "LogSumExp": (cosines * sharpness).exp().sum(dim=1).log() / sharpness,
                "Max": cosines.max(dim=1).values,
                "Sum": cosines.sum(dim=1),
                "Mean": cosines.mean(dim=1),
            }[str(options["agg_func"])]
        )
    return torch.stack(columns, dim=1)


def whole(state: State, name: str, units: Tensor, *, normed: bool) -> Tensor:
    """Self-attention of units ``(n, N, D)`` to ``(n, D)``."""
    local = linear(state, f"{name}.embedding_local.0", units)
    guide = linear(state, f"{name}.embedding_global.0", units.mean(dim=1))
    if normed:
        # One channel a place.
        local = batch_norm(state, f"{name}.embedding_local.1", local.transpose(1, 2)).transpose(1, 2)
        guide = batch_norm(state, f"{name}.embedding_global.1", guide)
    logits = linear(state, f"{name}.embedding_common.0", local.tanh() * guide.tanh()[:, None])
    return l2norm((logits.softmax(dim=1) * units).sum(dim=1), -1)


def sgraf_scores(state: State, images: Tensor, captions: Tensor, lengths: list[int]) -> Tensor:
    """Scores ``(B, C)`` of the module that the state dict holds."""
    columns = []
    seen = whole(state, "v_global_w", images, normed=True)
    steps = len({key.split(".")[1] for key in state if key.startswith("SGR_module.")})
    for caption, length in zip(captions, lengths, strict=True):
        text = caption[:length].expand(len(images), -1, -1)
        told = whole(state, "t_global_w", text[:1], normed=False)
        context = l2norm(attended(text, images, "clipped_l2norm", 9.0), -1)
        local = l2norm(linear(state, "sim_tranloc_w", (context - text) ** 2), -1)
        top = l2norm(linear(state, "sim_tranglo_w", (seen - told) ** 2), -1)
        nodes = torch.cat([top[:, None], local], dim=1)
        for step in range(steps):
            name = f"SGR_module.{step}"
            query, key = (linear(state, f"{name}.graph_{part}_w", nodes) for part in ("query", "key"))
            edges = (query @ key.transpose(1, 2)).softmax(dim=2)
            nodes = linear(state, f"{name}.sim_graph_w", edges @ nodes).relu()
        vector = nodes[:, 0]
        if not steps:
            gates = batch_norm(
                state, "SAF_module.bn", linear(state, "SAF_module.attn_sim_w", nodes)
            ).sigmoid()
            vector = l2norm((gates / gates.sum(dim=1, keepdim=True) * nodes).sum(dim=1), -1)
        columns.append(linear(state, "sim_eval_w", vector).sigmoid()[:, 0])
    return torch.stack(columns, dim=1)


# ---- random state dicts in the published layout


def image_state(feature_dim: int, dim: int, *, weight_norm: bool = False) -> State:
    draw = Draw(11)
    draw.linear("fc", feature_dim, dim)
    if weight_norm:
        draw.state["fc.weight_v"] = draw.state.pop("fc.weight")
        draw.state["fc.weight_g"] = torch.tensor(3.0)
    return draw.state


def words_state(name: str, count: int, word_dim: int, dim: int, *, both: bool) -> State:
    draw = Draw(12)
    draw.tensor("embed.weight", count, word_dim, scale=1.0)
    draw.gru(name, word_dim, dim, both=both)
    return draw.state


def similarity_state(module: str, dim: int, width: int, regions: int, steps: int, *, counted: bool) -> State:
    draw = Draw(13)
    for name in ("v_global_w", "t_global_w"):
        draw.linear(f"{name}.embedding_local.0", dim, dim)
        draw.linear(f"{name}.embedding_global.0", dim, dim)
        draw.linear(f"{name}.embedding_common.0", dim, 1)
    draw.norm("v_global_w.embedding_local.1", regions, counted=counted)
    draw.norm("v_global_w.embedding_global.1", dim, counted=counted)
    draw.linear("sim_tranloc_w", dim, width)
    draw.linear("sim_tranglo_w", dim, width)
    draw.linear("sim_eval_w", width, 1, scale=2.0)
    if module == "SGR":
        for step in range(steps):
            for part in ("graph_query_w", "graph_key_w", "sim_graph_w"):
                draw.linear(f"SGR_module.{step}.{part}", width, width, scale=0.8)
    else:
        draw.linear("SAF_module.attn_sim_w", width, 1, scale=2.0)
        draw.norm("SAF_module.bn", 1, counted=counted)
    return draw.state
