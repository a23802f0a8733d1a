"""Low-rank adaptation of a dual encoder's halves through the package peft."""

from __future__ import annotations

from typing import Any

from torch import nn

from crossalign.encoders.dual.settings import LoRASettings
from crossalign.errors import CrossAlignError, missing_extra

__all__ = ["add_lora", "merge_lora"]

# Attention and perceptron as transformers, timm and open_clip call them.
_USUAL = frozenset(
    [
        "q_proj",
        "k_proj",
        "v_proj",
        "out_proj",
        "fc1",
        "fc2",
        "qkv",
        "proj",
        "projection",
        "query",
        "key",
        "value",
        "dense",
        "attn",
        "c_fc",
        "c_proj",
    ]
)


def add_lora(half: nn.Module, settings: LoRASettings) -> None:
    """Put learnt changes beside the linear maps of a half, in place; only they train.

    Raises:
        CrossAlignError: the package is missing, or no layer has one of the names.
    """
    peft = _peft()
    linear = tuple({name.rpartition(".")[2] for name, _ in _adaptable(half)})
    targets = list(settings.targets) or sorted(_USUAL & set(linear))
    if not set(targets) & set(linear):
        raise CrossAlignError(
            f"model.dual_encoder.lora.targets: no layer is called {', '.join(targets)}; there are "
            f"{', '.join(sorted(linear))}"
        )
    chosen = [
        name
        for name, _ in _adaptable(half)
        if name.rpartition(".")[2] in targets and (settings.targets or _in_a_block(name))
    ]
    config = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=chosen
    )
    peft.inject_adapter_in_model(config, half)


def merge_lora(half: nn.Module) -> None:
    """Add the changes to the weights and take them away, in place."""
    tuners = _peft().tuners.tuners_utils.BaseTunerLayer
    for name, module in list(half.named_modules()):
        if isinstance(module, tuners):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(half.get_submodule(parent), child, module.get_base_layer())


def _adaptable(half: nn.Module) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    inside: tuple[str, ...] = ()
    for name, module in half.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            found.append((name, module))
            inside += (f"{name}.",)
        elif isinstance(module, nn.Linear) and not name.startswith(inside or ("\0",)):
            found.append((name, module))
    return found


def _in_a_block(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise missing_extra("peft", "lora", "low-rank adaptation") from None
    return peft
