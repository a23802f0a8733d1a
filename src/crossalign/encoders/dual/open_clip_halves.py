"""The halves of a model of open_clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crossalign.encoders.dual.parts import ImageHalf, TextHalf
from crossalign.errors import CrossAlignError

__all__ = ["OpenClipImage", "OpenClipText"]


class OpenClipImage(ImageHalf):
    """A vision transformer, a ResNet with attention pooling, or a timm network, as open_clip builds them.

    Args:
        visual: the tower ``visual`` of a model of open_clip.
        size: side of its square input in pixels.
        alone: whether its pooling will be asked what it makes of one patch alone.
    """

    def __init__(self, visual: Any, size: int, alone: bool) -> None:
        super().__init__()
        self.visual = visual
        kind = type(visual).__name__
        self.kind = {"VisionTransformer": "vit", "ModifiedResNet": "resnet", "TimmModel": "timm"}.get(
            kind, ""
        )
        if not self.kind:
            raise CrossAlignError(f"model.dual_encoder: an image tower of kind {kind} is not known")
        if alone and len(getattr(visual, "head", ())) and hasattr(visual.head, "pool"):
            raise CrossAlignError(
                "model.dual_encoder.units: the attention pooling of this image tower cannot pool one patch alone; set "
                "units: learnt"
            )
        visual.eval()
        with torch.no_grad():
            embedding, states = self(torch.zeros(1, 3, size, size))
        visual.train()
        self.width, self.states_dim = embedding.shape[1], states.shape[2]

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if self.kind == "vit":
            # Not visual(pixels): its patches come after pooling, with some configurations in other numbers.
            states: Tensor = self.visual.transformer(self.visual._embeds(pixels))
            self.grid = tuple(self.visual.grid_size)
            return self._head(states), states[:, 1:]
        if self.kind == "resnet":
            found = self.visual.layer4(
                self.visual.layer3(self.visual.layer2(self.visual.layer1(self.visual.stem(pixels))))
            )
            self.grid = (found.shape[2], found.shape[3])
            return self.visual.attnpool(found), found.flatten(2).transpose(1, 2)
        features: Tensor = self.visual.trunk.forward_features(pixels)
        embedding = self._head(features)
        if features.dim() == 4:
            if getattr(self.visual.trunk, "output_fmt", "NCHW") == "NHWC":
                features = features.permute(0, 3, 1, 2)
            self.grid = (features.shape[2], features.shape[3])
            return embedding, features.flatten(2).transpose(1, 2)
        patches = features[:, getattr(self.visual.trunk, "num_prefix_tokens", 0) :]
        self.grid = self._grid(patches.shape[1])
        return embedding, patches

    def project(self, states: Tensor) -> Tensor:
        if self.kind == "resnet":
            pool = self.visual.attnpool
            single: Tensor = pool.c_proj(pool.v_proj(states))
            return single
        lone = states.flatten(0, 1)
        if self.kind == "timm" and self._is_map:
            nhwc = getattr(self.visual.trunk, "output_fmt", "NCHW") == "NHWC"
            lone = lone[:, None, None, :] if nhwc else lone[:, :, None, None]
        else:
            # It stands for the class token, too, where there is one: whatever is pooled is this state.
            before = 1 if self.kind == "vit" else getattr(self.visual.trunk, "num_prefix_tokens", 0)
            lone = lone[:, None].expand(-1, before + 1, -1)
        return self._head(lone).unflatten(0, states.shape[:2])

    def checkpoint_gradients(self) -> None:
        if self.kind == "timm":
            self.visual.trunk.set_grad_checkpointing(True)
        else:
            self.visual.set_grad_checkpointing(True)

    @property
    def _is_map(self) -> bool:
        """Whether the trunk of timm makes a map, not tokens."""
        return not hasattr(self.visual.trunk, "num_prefix_tokens")

    def _head(self, states: Tensor) -> Tensor:
        if self.kind == "timm":
            pooled: Tensor = self.visual.head(self.visual.trunk.forward_head(states))
            return pooled
        pooled, _ = self.visual._pool(states)
        return pooled if self.visual.proj is None else pooled @ self.visual.proj

    def _grid(self, patches: int) -> tuple[int, int]:
        found = getattr(getattr(self.visual.trunk, "patch_embed", None), "grid_size", None)
        if found is None or found[0] * found[1] != patches:
            raise CrossAlignError(
                "model.dual_encoder: the tokens of this image tower are not a map of patches"
            )
        return (found[0], found[1])


class OpenClipText(TextHalf):
    """open_clip's transformer, or a Hugging Face encoder with a projection.

    Args:
        text: the tower ``text`` of a model of open_clip with one.
    """

    def __init__(self, text: Any) -> None:
        super().__init__()
        self.text = text
        self.hugging_face = hasattr(text, "pooler")
        self.width = int(text.output_dim)
        self.states_dim = int(text.config.hidden_size if self.hugging_face else text.width)

    @property
    def sees_padding(self) -> bool:
        """Whether padding changes the embedding, so that texts have to be padded to their full length."""
        if self.hugging_face:
            return False
        causal = self.text.attn_mask is not None
        return (
            self.text.cls_emb is not None
            or not causal
            or self.text.pool_type not in ("argmax", "eos", "first")
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if self.hugging_face:
            attended = (tokens != self.text.config.pad_token_id).long()
            output = self.text.transformer(input_ids=tokens, attention_mask=attended)
            embedding: Tensor = self.text.proj(self.text.pooler(output, attended))
            return embedding, output.last_hidden_state
        embedded, attended = self.text._embeds(tokens)
        length = embedded.shape[1]
        if attended is not None:
            attended = attended[..., :length, :length]
        states = self.text.transformer(embedded, attn_mask=attended)
        if self.text.cls_emb is not None:
            return self._linear(self.text.ln_final(states[:, -1])), self.text.ln_final(states[:, :-1])
        states = self.text.ln_final(states)
        return self._linear(_pooled(states, tokens, self.text.pool_type, self.text.eos_id)), states

    def project(self, states: Tensor) -> Tensor:
        projected: Tensor = self.text.proj(states) if self.hugging_face else self._linear(states)
        return projected

    def checkpoint_gradients(self) -> None:
        self.text.set_grad_checkpointing(True)

    def _linear(self, states: Tensor) -> Tensor:
        projection = self.text.text_projection
        if projection is None:
            return states
        return projection(states) if isinstance(projection, nn.Linear) else states @ projection


def _pooled(states: Tensor, tokens: Tensor, kind: str, end: int) -> Tensor:
    """The state of each text that stands for the whole of it."""
    if kind == "first":
        return states[:, 0]
    if kind == "last":
        return states[:, -1]
    # CLIP's own vocabulary ends in the token that ends a text.
    place = tokens.argmax(dim=-1) if kind == "argmax" else (tokens == end).int().argmax(dim=-1)
    return states[torch.arange(len(states), device=states.device), place]
