"""The command that makes an index as it is: what a message tells the user to run."""

from __future__ import annotations

import shlex
from pathlib import Path

from crossalign.search.bank import TEMPERATURE
from crossalign.search.manifest import Manifest

__all__ = ["index_command"]


def index_command(
    manifest: Manifest,
    place: str | Path,
    *,
    model: str | None = None,
    rebuild: bool = False,
    bank: str | None = None,
) -> str:
    """``crossalign index`` with all that an index was made with, ready to be pasted.

    Without ``rebuild`` its query bank is left out: an update keeps it, even where the texts are gone or have changed.

    Args:
        manifest: what the index says about itself.
        place: its folder.
        model: where the model is now; None: where the index has written down, ``MODEL`` where it has not.
        rebuild: make it anew, with its own bank.
        bank: that it shall have instead.
    """
    words = ["crossalign", "index", model or manifest.model or "MODEL"]
    words += [manifest.photos] if manifest.texts is None else ["--texts", manifest.texts]
    if manifest.split is not None:
        words += ["--split", manifest.split]
    if manifest.width is not None:
        words += ["--width", str(manifest.width)]
    if bank is not None:
        words += ["--bank", bank]
    elif rebuild and manifest.bank is not None:
        words += ["--bank", manifest.bank.source]
        if manifest.bank.temperature != TEMPERATURE:
            words += ["--bank-temperature", f"{manifest.bank.temperature:g}"]
    words += ["--out", str(place)]
    return shlex.join([*words, *(["--rebuild"] if rebuild else [])])
