"""Networks that are built without random weights, and networks' depths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crossalign.encoders.depth import block_depths
from crossalign.encoders.undrawn import Undrawn


def test_nothing_is_drawn_inside_and_all_is_as_before_afterwards() -> None:
    state = torch.get_rng_state()
    with Undrawn():
        linear = nn.Linear(300, 300)
        nn.init.trunc_normal_(linear.weight)
        nn.init.xavier_uniform_(linear.weight)
        zeros = nn.init.zeros_(linear.bias)
    assert torch.equal(torch.get_rng_state(), state)
    assert not zeros.any()
    torch.manual_seed(0)
    first = nn.Linear(3, 3).weight
    torch.manual_seed(0)
    assert torch.equal(nn.Linear(3, 3).weight, first)


@pytest.mark.parametrize(
    ("names", "depths", "blocks"),
    [
        (
            [
                "cls_token",
                "patch_embed.proj.weight",
                "blocks.0.norm.bias",
                "blocks.1.mlp.fc1.weight",
                "norm.weight",
            ],
            [0, 0, 1, 2, 3],
            2,
        ),
        (
            [
                "embeddings.LayerNorm.bias",
                "encoder.layer.0.x.weight",
                "encoder.layer.1.x.weight",
                "pooler.dense.bias",
            ],
            [0, 1, 2, 3],
            2,
        ),
        # Stages of blocks count block by block, what merges before a stage comes before its blocks.
        (
            [
                "stem.0.bias",
                "stages.0.blocks.0.w",
                "stages.0.blocks.1.w",
                "stages.1.downsample.1.w",
                "stages.1.blocks.0.w",
            ],
            [0, 1, 2, 3, 4],
            4,
        ),
        # CLIP's ResNet begins with three convolutions; in a MobileNet, the second norm stands behind the blocks.
        (
            ["conv1.weight", "conv3.weight", "bn2.bias", "layer1.0.conv2.weight", "attnpool.c_proj.bias"],
            [0, 0, 0, 1, 2],
            1,
        ),
        (
            ["conv_stem.weight", "bn1.weight", "blocks.0.0.conv_pw.weight", "conv_head.weight", "bn2.bias"],
            [0, 0, 1, 2, 2],
            1,
        ),
        (["visual.ln_pre.bias", "visual.transformer.resblocks.0.mlp.c_fc.bias", "visual.proj"], [0, 1, 2], 1),
    ],
)
def test_depths(names: list[str], depths: list[int], blocks: int) -> None:
    assert block_depths(names) == (dict(zip(names, depths, strict=True)), blocks)
