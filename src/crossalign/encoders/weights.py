"""Loading weights files into image networks, strictly: every key must fit."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from crossalign.errors import CrossAlignError

__all__ = ["load_strictly", "read_weights", "refuse_not_finite", "require_finite", "state_digest"]

_WRAPPERS = ("state_dict", "model")
# How files of torch.save begin: a zip file, before torch 1.6 a pickle of protocol 2.
_TORCH = (b"PK", b"\x80\x02")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Named tensors of a ``.safetensors`` file, or of a PyTorch checkpoint that holds nothing but tensors.

    Raises:
        CrossAlignError: no such file, damaged, or it would need unpickling of other objects.
    """
    if not path.is_file():
        raise CrossAlignError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise CrossAlignError(f"{path}: may not be read; change its permissions") from None
    except Exception as error:  # damaged bytes raise nearly anything
        raise CrossAlignError(f"{path}: {_trouble(path, error)}") from None
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CrossAlignError(f"{path}: holds other things than named tensors; save the state dict alone")
    return dict(content)


def _trouble(path: Path, error: Exception) -> str:
    """What is wrong with a file: PyTorch's own words advise to run what is in it."""
    if path.suffix == ".safetensors":
        return "not a weights file, or damaged: no .safetensors; check the path, or fetch it again"
    with path.open("rb") as file:
        made_by_torch = file.read(2) in _TORCH
    if made_by_torch and isinstance(error, pickle.UnpicklingError):
        return (
            "not a readable weights file: holds other things than tensors, which are not unpickled, or is damaged; "
            "save the state dict alone, best as .safetensors"
        )
    return "not a weights file, or damaged: no .safetensors, no file of torch.save; check the path, or fetch it again"


def load_strictly(
    network: nn.Module, state: Mapping[str, Tensor], classifiers: Iterable[str], source: str
) -> tuple[str, ...]:
    """Load named tensors into a network without classifier; returns the names of the classifier's tensors.

    Raises:
        CrossAlignError: keys are missing or unknown, or a shape differs; they are listed.
    """
    own = network.state_dict()
    prefixes = tuple(f"{name}." for name in classifiers)
    dropped = tuple(sorted(key for key in state if key not in own and key.startswith(prefixes)))
    kept = {key: value for key, value in state.items() if key not in dropped}
    # Old checkpoints have no batch counters; they matter only to batch norms without momentum.
    missing = sorted(key for key in own.keys() - kept.keys() if not key.endswith("num_batches_tracked"))
    shapes = sorted(key for key in own.keys() & kept.keys() if own[key].shape != kept[key].shape)
    problems = [
        f"{title} {_listed(keys)}"
        for title, keys in (
            ("missing", missing),
            ("unknown", sorted(kept.keys() - own.keys())),
            ("of another shape", [f"{key} {_shape(kept[key])} for {_shape(own[key])}" for key in shapes]),
        )
        if keys
    ]
    if problems:
        raise CrossAlignError(
            f"{source}: does not fit the model: {'; '.join(problems)}; check the model's name and arguments"
        )
    network.load_state_dict(kept, strict=False)
    require_finite(network, source)
    return dropped


def require_finite(network: nn.Module, source: str) -> None:
    """Refuse weights that are no numbers: a training would find out at its first step, and blame the data.

    Raises:
        CrossAlignError: a value is NaN or infinite, but for the minus infinity of a buffer, which may be a mask.
    """
    wrong = [name for name, value in network.named_parameters() if not value.isfinite().all()]
    wrong += [name for name, value in network.named_buffers() if (value.isnan() | value.isposinf()).any()]
    refuse_not_finite(wrong, source)


def refuse_not_finite(keys: list[str], source: str) -> None:
    """One line of the keys, where there are any."""
    if keys:
        raise CrossAlignError(
            f"{source}: holds weights that are not finite: {_listed(keys)}; fetch or save it again"
        )


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return ", ".join(keys[:5]) + more


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape)
