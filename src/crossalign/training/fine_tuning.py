"""Fine-tuning of pretrained networks: which they are, what of them stays frozen, and memory for time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from crossalign.encoders.depth import block_depths
from crossalign.encoders.dual import ImageHalf, TextHalf
from crossalign.encoders.hf import checkpoint_blocks
from crossalign.errors import CrossAlignError
from crossalign.recipe import OptimizerSettings

__all__ = [
    "PretrainedNetwork",
    "checkpoint_gradients",
    "freeze_blocks",
    "keep_frozen_norms",
    "pretrained_networks",
]

_ADAPTED = "lora_"
_NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True)
class PretrainedNetwork:
    """A network of a model that came with weights of its own.

    Attributes:
        side: which tower it is of.
        name: of the module in the model.
        module: the network.
    """

    side: Literal["image", "text"]
    name: str
    module: nn.Module

    def depths(self) -> tuple[dict[str, int], int]:
        """Depth of each parameter by its name in the model, and the number of blocks.

        What low-rank adaptation adds is left out.
        """
        own = [name for name, _ in self.module.named_parameters() if _ADAPTED not in name]
        depths, blocks = block_depths(own)
        return {f"{self.name}.{name}": depth for name, depth in depths.items()}, blocks


def pretrained_networks(model: nn.Module) -> list[PretrainedNetwork]:
    """The backbones of both towers, or the halves of a dual encoder."""
    found: list[PretrainedNetwork] = []
    for side in ("image", "text"):
        tower = getattr(model, f"{side}_tower", None)
        for part in ("backbones", "backbone", "dual"):
            module = getattr(tower, part, None)
            inner = list(module.named_children()) if isinstance(module, nn.ModuleList) else [("", module)]
            for index, network in inner:
                if isinstance(network, nn.Module):
                    name = f"{side}_tower.{part}" + (f".{index}" if index else "")
                    found.append(PretrainedNetwork(side, name, network))
    matcher = getattr(getattr(model, "scorer", None), "matcher", None)
    if isinstance(matcher, nn.Module):
        found.append(PretrainedNetwork("text", "scorer.matcher", matcher))
    return found


def freeze_blocks(model: nn.Module, settings: OptimizerSettings) -> None:
    """Freeze the first blocks of the networks as the settings say, with what comes before them.

    Raises:
        CrossAlignError: a network has fewer blocks.
    """
    for network in pretrained_networks(model):
        wanted = getattr(settings, f"frozen_{network.side}_blocks")
        if wanted is None:
            continue
        if wanted == "all":
            network.module.requires_grad_(False)
            continue
        depths, blocks = network.depths()
        if wanted > blocks:
            raise CrossAlignError(
                f"optimizer.frozen_{network.side}_blocks is {wanted}, the {network.side} network has {blocks} blocks; "
                "lower it, or set all"
            )
        for name, parameter in network.module.named_parameters():
            if depths[f"{network.name}.{name}"] <= wanted:
                parameter.requires_grad_(False)


def keep_frozen_norms(model: nn.Module) -> None:
    """Put frozen batch norms into evaluation mode: their statistics must not move while their weights stay."""
    for network in pretrained_networks(model):
        for module in network.module.modules():
            frozen = not any(parameter.requires_grad for parameter in module.parameters())
            if isinstance(module, _NORMS) and frozen:
                module.eval()


def checkpoint_gradients(model: nn.Module) -> None:
    """Let every fine-tuned network compute its blocks again in the backward pass.

    Raises:
        CrossAlignError: a network cannot.
    """
    for network in pretrained_networks(model):
        if not any(parameter.requires_grad for parameter in network.module.parameters()):
            continue
        inner: Any = (
            network.module if isinstance(network.module, ImageHalf | TextHalf) else network.module.network
        )
        try:
            if isinstance(inner, ImageHalf | TextHalf):
                inner.checkpoint_gradients()
            elif hasattr(inner, "set_grad_checkpointing"):
                inner.set_grad_checkpointing(True)
            else:
                checkpoint_blocks(inner)
        except (AssertionError, AttributeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(inner).__name__
            raise CrossAlignError(
                f"training.gradient_checkpointing: the {network.side} network cannot ({reason}); leave it out"
            ) from None
