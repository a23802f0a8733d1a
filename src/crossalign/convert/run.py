"""One published checkpoint into one model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossalign.convert.checkpoint import Checkpoint, open_checkpoint
from crossalign.convert.layout import Converted, Layout
from crossalign.convert.layouts import LAYOUTS
from crossalign.encoders.weights import refuse_not_finite
from crossalign.errors import CrossAlignError
from crossalign.model_folder import check_replaceable

__all__ = ["Conversion", "convert_checkpoint"]

NEEDED = {
    "words": "--vocab with the vocabulary file that it was trained with (*_vocab.json or *_vocab.pkl)",
    "bert": "--vocab with the folder of the BERT that its training began with (vocab.txt and config.json)",
}


@dataclass(frozen=True)
class Conversion:
    """What was made of what."""

    checkpoint: str
    layout: str
    folder: str
    converted: Converted

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "checkpoint": self.checkpoint,
            "layout": self.layout,
            "model": self.folder,
            "feature_dim": self.converted.feature_dim,
            "left_out": list(self.converted.left_out),
            "notes": list(self.converted.notes),
            "settings": self.converted.settings,
        }


def convert_checkpoint(
    checkpoint: str | Path,
    vocabulary: str | Path | None,
    folder: str | Path,
    *,
    layout: str | None = None,
    feature_dim: int | None = None,
) -> Conversion:
    """Write the model folder of a published checkpoint, replacing an earlier model.

    Args:
        checkpoint: file of a layout in :data:`~crossalign.convert.layouts.LAYOUTS`.
        vocabulary: what the layout needs: a vocabulary file, or the folder of a BERT.
        layout: its name; recognised by its keys where left out.
        feature_dim: width of the region features that the model must take.

    Raises:
        LayoutMismatchError: keys are missing, unknown, or of another shape.
        CrossAlignError: anything else that does not fit; nothing is written then.
    """
    check_replaceable(folder)
    opened = open_checkpoint(checkpoint)
    known = _chosen(opened, layout)
    if vocabulary is None:
        raise CrossAlignError(f"{checkpoint}: layout '{known.name}' needs {NEEDED[known.vocabulary]}")
    if not Path(vocabulary).exists():
        raise CrossAlignError(
            f"{vocabulary}: no such file; the layout '{known.name}' needs {NEEDED[known.vocabulary]}"
        )
    refuse_not_finite(opened.not_finite(), str(checkpoint))
    converted = known.convert(opened, Path(vocabulary))
    if feature_dim not in (None, converted.feature_dim):
        raise CrossAlignError(
            f"{checkpoint}: takes regions of {converted.feature_dim} numbers, not {feature_dim}; "
            "take the features that it was trained on"
        )
    converted.model.save_pretrained(folder)
    return Conversion(str(checkpoint), known.name, str(folder), converted)


def _chosen(checkpoint: Checkpoint, name: str | None) -> Layout:
    if name is not None:
        for layout in LAYOUTS:
            if layout.name == name:
                return layout
        raise CrossAlignError(
            f"no layout '{name}'; choose one of {', '.join(layout.name for layout in LAYOUTS)}"
        )
    fitting = [layout for layout in LAYOUTS if layout.recognises(checkpoint)]
    if len(fitting) == 1:
        return fitting[0]
    if any(key.startswith("backbone.") for key in checkpoint.state("image")):
        raise CrossAlignError(
            f"{checkpoint.source}: its image encoder holds a network for photos ('backbone.'), and only checkpoints "
            "on region features are converted"
        )
    shown = [f"{part} {key}" for part in ("image", "text") for key in list(checkpoint.state(part))[:2]]
    raise CrossAlignError(
        f"{checkpoint.source}: its keys ({', '.join(shown)} ...) are of no layout that is known; "
        "'crossalign convert --list' names them"
    )
