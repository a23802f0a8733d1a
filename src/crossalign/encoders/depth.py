"""How deep in a pretrained network each parameter stands: embeddings, blocks, what comes after them."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["block_depths"]

# Lists of blocks as timm, open_clip and transformers call them, with their numbers, and ResNets' layer1 to layer4.
_BLOCK = re.compile(r"(?:^|\.)(?:resblocks|blocks|layers?|stages?|h)\.(\d+)(?=\.)|(?:^|\.)layer(\d+)(?=\.)")
# What stands before the first block.
_BEFORE = re.compile(
    r"(?:^|\.)(?:embeddings?|\w*_embedding|embed_tokens|patch_embed|pos_embed|cls_token|reg_token|cls_emb|stem|conv_stem|"
    r"conv1|bn1|ln_pre|norm_pre|pre_layrnorm|wte|wpe)(?:\.|$)"
)
# CLIP's ResNets begin with three convolutions; elsewhere such names stand behind the blocks.
_THREE = re.compile(r"(?:^|visual\.)(?:conv|bn)[23]\.")


def block_depths(names: Iterable[str]) -> tuple[dict[str, int], int]:
    """Depth of each parameter of one network by its name, and the number of its blocks n.

    Embeddings, stems and norms before the first block have depth 0, block i has depth i + 1, and everything else (the
    last norm, pooling, projections) n + 1. Stages that hold blocks count block by block.
    """
    names = list(names)
    keys: dict[str, tuple[int, ...]] = {}
    for name in names:
        found = tuple(int(first or second) for first, second in _BLOCK.findall(name))
        if found:
            # Further numbers are of lists within a block.
            keys[name] = found[:2] if re.search(r"(?:^|\.)(?:stages?|layer\d+|blocks)\.", name) else found[:1]
    order = {key: depth for depth, key in enumerate(sorted(set(keys.values())), start=1)}
    last = len(order) + 1
    three = any(re.search(r"(?:^|visual\.)conv3\.", name) for name in names)

    def depth(name: str) -> int:
        if name in keys:
            return order[keys[name]]
        return 0 if _BEFORE.search(name) or (three and _THREE.search(name)) else last

    return {name: depth(name) for name in names}, last - 1
