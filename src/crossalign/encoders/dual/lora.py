"""Low-rank adaptation of a dual encoder's halves through the package peft."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.encoders.dual.settings import LoRASettings
from crossalign.errors import CrossAlignError, missing_extra

__all__ = ["add_lora", "merge_lora"]

# Attention and perceptron as transformers, timm and open_clip call them.
_ATTENTION = {"q_proj", "k_proj", "v_proj", "out_proj", "qkv", "proj", "projection", "query", "key", "value"}
_PERCEPTRON = {"fc1", "fc2", "c_fc", "c_proj", "dense"}


def add_lora(half: nn.Module, settings: LoRASettings) -> None:
    """Put learnt changes beside the linear maps of a half, in place; only they train.

    Raises:
        CrossAlignError: the package is missing, or no layer has one of the names.
    """
    peft = _peft()
    half.requires_grad_(False)
    for name, module in list(half.named_modules()):
        if isinstance(module, nn.MultiheadAttention) and _in_a_block(name):
            _replace(half, name, _Attention.of(module))
    linear = [name for name, module in half.named_modules() if isinstance(module, nn.Linear)]
    known = {name.rpartition(".")[2] for name in linear if _in_a_block(name)}
    targets = set(settings.targets) or _ATTENTION | _PERCEPTRON
    if not targets & known:
        raise CrossAlignError(
            f"model.dual_encoder.lora.targets: no layer is called {', '.join(sorted(targets))}; there are "
            f"{', '.join(sorted(known))}"
        )
    chosen = [name for name in linear if name.rpartition(".")[2] in targets and _in_a_block(name)]
    config = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=chosen
    )
    peft.inject_adapter_in_model(config, half)


def merge_lora(half: nn.Module) -> None:
    """Add the changes to the weights and take them away, in place; everything trains again."""
    tuners = _peft().tuners.tuners_utils.BaseTunerLayer
    for name, module in list(half.named_modules()):
        if isinstance(module, tuners):
            module.merge()
            _replace(half, name, module.get_base_layer())
    for name, module in list(half.named_modules()):
        if isinstance(module, _Attention):
            _replace(half, name, module.as_attention())
    half.requires_grad_(True)


class _Attention(nn.Module):
    """The self-attention of :class:`torch.nn.MultiheadAttention` by two linear maps that can be adapted.

    That class multiplies by its matrices itself. peft therefore adds the change to the matrix before each step and
    takes it away afterwards: rounding moves the weights which should stay, and no resumed run is exact.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    @classmethod
    def of(cls, attention: nn.MultiheadAttention) -> _Attention:
        """With the weights of an attention whose batch comes first."""
        split = cls(attention.embed_dim, attention.num_heads, attention.dropout)
        split.qkv.weight, split.qkv.bias = attention.in_proj_weight, attention.in_proj_bias
        split.out_proj.weight, split.out_proj.bias = attention.out_proj.weight, attention.out_proj.bias
        return split.train(attention.training)

    def as_attention(self) -> nn.MultiheadAttention:
        """The attention that this one came from, with its weights of now."""
        whole = nn.MultiheadAttention(
            self.out_proj.in_features, self.heads, dropout=self.dropout, batch_first=True
        )
        whole.in_proj_weight = nn.Parameter(self.qkv.weight.data)
        whole.register_parameter("in_proj_bias", self.qkv.bias)
        whole.out_proj.weight, whole.out_proj.bias = self.out_proj.weight, self.out_proj.bias
        return whole.train(self.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Of ``(B, L, D)`` to itself, with an additive mask ``(L, L)`` or ``(B heads, L, L)``."""
        count, length, dim = query.shape
        parts = self.qkv(query).view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if attn_mask is not None and attn_mask.dim() == 3:
            attn_mask = attn_mask.view(count, self.heads, length, length)
        asked, keys, values = parts.unbind(0)
        seen = F.scaled_dot_product_attention(
            asked, keys, values, attn_mask=attn_mask, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_proj(seen.transpose(1, 2).reshape(count, length, dim)), None


def _replace(half: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(half.get_submodule(parent), child, module)


def _in_a_block(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise missing_extra("peft", "lora", "low-rank adaptation") from None
    return peft
