"""Networks of the timm library: building one, and the pre-processing it was trained with."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Mapping
from typing import Any

from torch import nn

from crossalign.encoders.inputs import InputSettings
from crossalign.errors import CrossAlignError, missing_extra
from crossalign.settings import parse_settings

__all__ = ["create_network", "default_input", "is_network"]

_OUR_ARGUMENTS = {"num_classes", "features_only", "out_indices", "pretrained", "checkpoint_path", "in_chans"}


def default_input(name: str, **changes: Any) -> InputSettings:
    """The pre-processing that timm states for a model, except for the ``changes`` that are not None.

    Photos are squashed unless ``resize`` says otherwise: retrieval needs to see the whole of them.

    Raises:
        CrossAlignError: unknown model, or a value that is not allowed.
    """
    timm = _timm()
    _check_name(name)
    pretrained = timm.get_pretrained_cfg(name)
    stated = timm.data.resolve_data_config({}, pretrained_cfg=pretrained.to_dict() if pretrained else {})
    values = {
        "size": stated["input_size"][-1],
        "mean": tuple(stated["mean"]),
        "std": tuple(stated["std"]),
        "interpolation": stated["interpolation"],
    } | {key: value for key, value in changes.items() if value is not None}
    return parse_settings(InputSettings, values, f"input of {name}")


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise missing_extra("timm", "vision", "an image network") from None
    return timm


def is_network(name: str) -> bool:
    """Whether timm has a model of this name."""
    return bool(_timm().is_model(name))


def _check_name(name: str) -> None:
    timm = _timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists those there are"
        raise CrossAlignError(f"'{name}' is not a model of timm {timm.__version__}; {hint}")


def create_network(name: str, arguments: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
    """A timm network without a classifier, with random weights or those that timm downloads.

    Raises:
        CrossAlignError: unknown model, an argument it does not take, or a failed download.
    """
    timm = _timm()
    _check_name(name)
    ours = sorted(_OUR_ARGUMENTS & arguments.keys())
    if ours:
        raise CrossAlignError(
            f"{name}: the model argument {', '.join(ours)} is set by crossalign; leave it out"
        )

    def create(weights: bool) -> nn.Module:
        network: nn.Module = timm.create_model(name, pretrained=weights, num_classes=0, **arguments)
        return network

    try:
        return create(pretrained)
    except Exception as error:
        # Whatever fails in here is a wrong argument or a failed download, never this program's state.
        first = " ".join(str(error).split()).partition(". ")[0]
        reason = textwrap.shorten(first, 300, placeholder=" ...") or type(error).__name__
    if pretrained:
        try:
            create(False)
        except Exception:
            pass
        else:
            raise CrossAlignError(
                f"{name}: timm did not get its pretrained weights ({reason}); download them where there is a network "
                "and give the file: --weights FILE, in a recipe weights: FILE"
            )
    given = ", ".join(f"{key}={value}" for key, value in arguments.items()) or "its own arguments"
    raise CrossAlignError(f"{name}: timm cannot build it with {given} ({reason})")
