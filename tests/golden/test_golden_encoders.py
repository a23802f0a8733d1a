"""The layers of VSRN and CAMERA agree with what the methods' published implementations give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crossalign.encoders.agsa import AdaptiveGatingSelfAttention
from crossalign.encoders.camera import CAMERAImageEncoder
from crossalign.encoders.positions import BoxPositions
from crossalign.encoders.summarization import MultiViewSummarization, summarize
from crossalign.encoders.vsrn import RegionRelation
from crossalign.model import RetrievalModel
from crossalign.normalization import unit_norm

FOLDER = Path(__file__).parent

RELATION = {"query": "theta", "key": "phi", "value": "g", "output": "W.0", "norm": "W.1"}
ATTENTION = {
    "query": "att_layers.0.linears.0",
    "key": "att_layers.0.linears.1",
    "value": "att_layers.0.linears.2",
    "gate_query": "att_layers.0.fc_q",
    "gate_key": "att_layers.0.fc_k",
    "gate": "att_layers.0.fc_g",
    "norm": "bns.0",
}
POSITIONS = {"projection": "proj"}
SUMMARIZATION = {"convolutions": "convs_dilate", "views": "convs_fc"}


def read(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "__meta__"}
        return tensors, json.loads(str(arrays["__meta__"]))


def load(module: nn.Module, names: dict[str, str], golden: dict[str, Tensor], prefix: str) -> None:
    """Fill a module from weights of the published names; every weight under the prefix has to find its place."""
    ours = module.state_dict()
    state = {}
    for key, tensor in ours.items():
        part, rest = key.split(".", 1)
        state[key] = golden[f"{prefix}.{names[part]}.{rest}"].reshape(tensor.shape)
    assert len(state) == sum(key.startswith(f"{prefix}.") for key in golden)
    module.load_state_dict(state)


def assert_agrees(ours: Tensor, golden: Tensor) -> None:
    """Within 1e-5 of the largest value."""
    assert ours.shape == golden.shape
    assert (ours.detach() - golden).abs().max() <= 1e-5 * golden.abs().max()


def test_golden_region_relation() -> None:
    golden, meta = read("vsrn_gcn_0")
    assert meta["layout"] == "B,D,N"
    units = golden["x"].transpose(1, 2)
    layer = RegionRelation(units.shape[2]).eval()
    load(layer, RELATION, golden, "state")
    assert_agrees(layer(units), golden["y"].transpose(1, 2))
    # One image at a time there are fewer regions than features, and the layer multiplies in another order.
    alone = torch.cat([layer(item.unsqueeze(0)) for item in units])
    assert_agrees(alone, golden["y"].transpose(1, 2))


def test_golden_region_relation_among_padding() -> None:
    golden, _ = read("vsrn_gcn_0")
    units = golden["x"].transpose(1, 2)
    layer = RegionRelation(units.shape[2]).eval()
    load(layer, RELATION, golden, "state")
    padded = torch.full((3, 14, units.shape[2]), 1e4)
    mask = torch.zeros(3, 14, dtype=torch.bool)
    mask[:, 2:11] = True
    padded[:, 2:11] = units
    assert_agrees(layer(padded, mask)[:, 2:11], golden["y"].transpose(1, 2))


def relative(golden: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    sizes = golden["image_wh"]
    return golden["boxes"] / sizes.repeat(1, 2).unsqueeze(1), sizes[:, 0] / sizes[:, 1]


def test_golden_camera_parts() -> None:
    golden, meta = read("camera_0")
    dim = golden["regions"].shape[2]
    positions = BoxPositions(dim)
    load(positions, POSITIONS, golden, "pos")
    boxes, aspect = relative(golden)
    assert_agrees(positions(boxes, None, aspect), golden["position"])

    attention = AdaptiveGatingSelfAttention(dim, meta["heads"]).eval()
    load(attention, ATTENTION, golden, "agsa")
    assert_agrees(attention(golden["regions"], None, golden["position"]), golden["agsa"])
    assert_agrees(attention(golden["regions"]), golden["agsa_nopos"])

    summarization = MultiViewSummarization(dim, meta["views"])
    load(summarization, SUMMARIZATION, golden, "smry")
    normed = unit_norm(golden["agsa"])
    assert_agrees(summarization(normed), golden["summary_logits"])
    everywhere = torch.ones(normed.shape[:2], dtype=torch.bool)
    views = unit_norm(summarize(normed, golden["summary_logits"], everywhere))
    assert_agrees(views, golden["views"])
    assert_agrees(RetrievalModel.similarity(views, golden["captions"]), golden["sims"])


def test_golden_camera_encoder() -> None:
    golden, meta = read("camera_0")
    regions = golden["regions"]
    dim = regions.shape[2]
    encoder = CAMERAImageEncoder(dim, dim, heads=meta["heads"], views=meta["views"]).eval()
    assert encoder.positions is not None
    load(encoder.positions, POSITIONS, golden, "pos")
    load(encoder.attention, ATTENTION, golden, "agsa")
    load(encoder.summarization, SUMMARIZATION, golden, "smry")
    with torch.no_grad():
        encoder.projection.weight.copy_(torch.eye(dim))
        encoder.projection.bias.zero_()
    boxes, aspect = relative(golden)
    encoding = encoder(regions, torch.ones(regions.shape[:2], dtype=torch.bool), boxes, aspect)
    assert_agrees(encoding.locals, regions)
    assert_agrees(encoding.context, golden["agsa"])
    assert_agrees(encoding.aux["summary_logits"], golden["summary_logits"])
    assert_agrees(encoding.embedding, golden["views"])
