"""Several models as one: the mean of their similarities, as one inner product, and their folder on disk."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.Image import Image
from torch import Tensor

from crossalign.encoding import Space
from crossalign.errors import CrossAlignError
from crossalign.files import read_json, write_json
from crossalign.folders import atomic_folder, restore_folder
from crossalign.model import RetrievalModel
from crossalign.model_folder import ENSEMBLE
from crossalign.scorers.settings import SCANSettings
from crossalign.towers.settings import ModelConfig

__all__ = [
    "EnsembleModel",
    "Scale",
    "StoredEnsemble",
    "chosen_scale",
    "ensemble_fingerprint",
    "is_ensemble",
    "open_ensemble",
    "read_ensemble",
    "side_by_side",
    "write_ensemble",
]

FORMAT, FORMAT_VERSION = "crossalign-ensemble", 1
_RECIPE = "recipe.yaml"

Scale = Literal["raw", "standardised"]
"""``raw``: the mean of the scores as they are. ``standardised``: of each model's scores less their mean over all pairs
of the gallery, divided by their standard deviation."""


@dataclass(frozen=True)
class StoredEnsemble:
    """What the folder of an ensemble holds.

    Attributes:
        members: their folders, each with a ``model`` and the ``recipe.yaml`` of its run, where it comes from one.
        names: of the members, as they were told.
    """

    folder: Path
    members: tuple[Path, ...]
    names: tuple[str, ...]
    scale: Scale


class EnsembleModel:
    """Embeddings of several models side by side, whose inner product is the mean of the models' similarities.

    Takes the place of a model wherever photos and texts are embedded: index and search.

    Args:
        models: two or more, with embeddings; widths, inputs and vocabularies are their own.

    Raises:
        CrossAlignError: a model that scores pairs.
    """

    def __init__(self, models: Sequence[RetrievalModel]) -> None:
        for model in models:
            if model.scorer is not None:
                raise CrossAlignError(
                    "an ensemble with a model that scores pairs has no embeddings to index; evaluate it, or re-rank "
                    "with that model (--rerank)"
                )
        self.models = tuple(models)

    @property
    def fingerprint(self) -> str:
        """Changes whenever an embedding could."""
        return ensemble_fingerprint([model.fingerprint for model in self.models], "raw")

    @property
    def dim(self) -> int:
        """Width of an embedding: of all members' together."""
        return sum(model.dim for model in self.models)

    @property
    def embedding_parts(self) -> None:
        """None: it cannot be cut, as the members' widths differ."""
        return None

    @property
    def uni_modal_width(self) -> int | None:
        """Width of a uni-modal embedding: of all members' together; None where a member has no heads for it."""
        widths = [width for model in self.models if (width := model.uni_modal_width) is not None]
        return sum(widths) if len(widths) == len(self.models) else None

    def require_embeddings(self, space: Space = "cross") -> None:
        """Refuse what compares embeddings that a member does not have.

        Raises:
            CrossAlignError: a member has no uni-modal heads where those are asked for.
        """
        for model in self.models:
            model.require_embeddings(space)

    def encode_images(
        self,
        images: Sequence[Image],
        batch_size: int = 32,
        progress: bool = False,
        space: Space = "cross",
    ) -> Tensor:
        """``(n, D)``, or ``(n, V, D)`` with every choice of one view of each member."""
        return side_by_side(
            [model.encode_images(images, batch_size, progress, space=space) for model in self.models]
        )

    def encode_texts(
        self, texts: Sequence[str], batch_size: int = 256, progress: bool = False, space: Space = "cross"
    ) -> Tensor:
        """``(n, D)``."""
        return side_by_side(
            [model.encode_texts(texts, batch_size, progress, space=space) for model in self.models]
        )

    def encode_images_in(self, spaces: Sequence[Space], images: Sequence[Image]) -> tuple[Tensor, ...]:
        """Embeddings of one batch of photos in each of the spaces, by one pass of each member."""
        return _each_side_by_side([model.encode_images_in(spaces, images) for model in self.models])

    def encode_texts_in(self, spaces: Sequence[Space], texts: Sequence[str]) -> tuple[Tensor, ...]:
        """Embeddings of one batch of texts in each of the spaces, by one pass of each member."""
        return _each_side_by_side([model.encode_texts_in(spaces, texts) for model in self.models])

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words of a text that no member knows, in order."""
        first, *others = (model.unknown_words(text) for model in self.models)
        return tuple(word for word in first if all(word in other for other in others))


def open_ensemble(folder: str | Path, device: str | torch.device = "cpu") -> EnsembleModel:
    """Load the models of an ensemble's folder, to embed with them.

    Raises:
        CrossAlignError: one is missing or damaged, or scores pairs; or the ensemble averages standardised scores.
    """
    stored = read_ensemble(folder)
    models = [RetrievalModel.from_pretrained(member, device) for member in stored.members]
    try:
        ensemble = EnsembleModel(models)
    except CrossAlignError as error:
        raise CrossAlignError(f"{folder}: {error}") from None
    if stored.scale != "raw":
        raise CrossAlignError(
            f"{folder}: averages {stored.scale} scores, which depend on the whole gallery; to index it, make the "
            "ensemble again with --scale raw"
        )
    return ensemble


def side_by_side(embeddings: Sequence[Tensor]) -> Tensor:
    """Embeddings of M models side by side, divided by the root of M: inner products are the mean of the models'.

    Args:
        embeddings: of each model ``(n, D_m)`` or, of several views, ``(n, V_m, D_m)``.

    Returns:
        ``(n, D_1 + ... + D_M)``. With views ``(n, V_1 ... V_M, D_1 + ... + D_M)``, every choice of one view of each
        model: the largest inner product is then the mean of the models' largest ones.
    """
    views = [values if values.dim() == 3 else values[:, None] for values in embeddings]
    counts = [values.shape[1] for values in views]
    choices = torch.cartesian_prod(*(torch.arange(count) for count in counts)).reshape(-1, len(views))
    parts = [values[:, choice.to(values.device)] for values, choice in zip(views, choices.T, strict=True)]
    together = torch.cat(parts, dim=-1) / math.sqrt(len(views))
    return together if any(values.dim() == 3 for values in embeddings) else together[:, 0]


def _each_side_by_side(of_models: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(side_by_side(of_space) for of_space in zip(*of_models, strict=True))


def ensemble_fingerprint(fingerprints: Sequence[str], scale: Scale) -> str:
    """SHA-256 over the members' fingerprints in their order and what is averaged."""
    return hashlib.sha256(json.dumps([scale, *fingerprints]).encode()).hexdigest()


def chosen_scale(configs: Sequence[ModelConfig], scale: Scale | None = None) -> Scale:
    """The scale that is asked for, or the one that suits models of these settings.

    Similarities of embeddings agree in scale: base embeddings are of unit norm, and context vectors add to the inner
    product what they are worth. Scores of one kind of scorer agree, too. Others are standardised: a sum of SCAN's over
    a caption's words would leave a cosine beside it without a say.
    """
    if scale is not None:
        return scale
    return "raw" if len({_kind_of_scores(config) for config in configs}) == 1 else "standardised"


def _kind_of_scores(config: ModelConfig) -> str:
    scorer = config.scorer
    if scorer is None:
        return "inner product"
    if isinstance(scorer, SCANSettings):
        return f"{scorer.kind} {scorer.aggregation} {scorer.direction}"
    # SGR, SAF and their mean end in the same sigmoid.
    return "sgraf" if scorer.kind in ("sgr", "saf", "sgraf") else scorer.kind


def is_ensemble(name: str | Path) -> bool:
    """Whether a folder of an ensemble is there."""
    restore_folder(name)
    return (Path(name) / ENSEMBLE).is_file()


def write_ensemble(
    names: Sequence[str | Path], folder: str | Path, *, scale: Scale | None = None
) -> StoredEnsemble:
    """Write the folder of an ensemble: copies of the models, with the recipes of their runs.

    Args:
        names: training runs, model folders or models of the Hugging Face Hub.
        scale: see :func:`chosen_scale`.

    Raises:
        CrossAlignError: fewer than two models, one that is an ensemble itself, or a place that is taken.
    """
    if len(names) < 2:
        raise CrossAlignError("an ensemble needs two models or more; name another")
    if Path(folder).exists():
        raise CrossAlignError(f"{folder}: already exists; remove it or choose another place (--out)")
    configs, members, told = [], [], []
    with atomic_folder(folder) as temporary:
        for number, name in enumerate(names, start=1):
            model = RetrievalModel.from_pretrained(name)
            place = Path(name).resolve()
            own = place.parent.name if place.name == "model" else place.name
            member = f"members/{number}-{own}"
            model.save_pretrained(temporary / member / "model")
            if (Path(name) / _RECIPE).is_file():
                shutil.copyfile(Path(name) / _RECIPE, temporary / member / _RECIPE)
            configs.append(model.config)
            members.append(member)
            told.append(own)
        chosen = chosen_scale(configs, scale)
        write_json(
            temporary / ENSEMBLE,
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "scale": chosen,
                "members": [
                    {"folder": member, "name": name} for member, name in zip(members, told, strict=True)
                ],
            },
        )
    return read_ensemble(folder)


def read_ensemble(folder: str | Path) -> StoredEnsemble:
    """Read the folder of an ensemble; its models are not loaded.

    An ensemble holds copies of its models. So a member's folder is told relative to that of the ensemble and lies
    within it, wherever the ensemble was made: an absolute path, ``..`` or a link that leads out of it would have other
    places of this machine read, by the word of whoever wrote the folder, and is refused. Models that stay where they
    are can be named beside each other instead, as by ``crossalign evaluate --with``. What is within a member is read as
    that of any model.

    Raises:
        CrossAlignError: it is damaged or of another version, or a member is missing or outside of it.
    """
    folder = Path(folder)
    path = folder / ENSEMBLE
    content = read_json(path, "make the ensemble again")
    if not isinstance(content, dict) or (content.get("format"), content.get("format_version")) != (
        FORMAT,
        FORMAT_VERSION,
    ):
        raise CrossAlignError(f"{path}: not an ensemble of format {FORMAT_VERSION}; make the ensemble again")
    members: Any = content.get("members")
    scale = content.get("scale")
    known = isinstance(members, list) and all(
        isinstance(member, dict) and {"folder", "name"} == member.keys() for member in members
    )
    if not known or len(members) < 2 or scale not in ("raw", "standardised"):
        raise CrossAlignError(f"{path}: damaged; make the ensemble again")
    return StoredEnsemble(
        folder,
        tuple(_member(folder, str(member["folder"])) for member in members),
        tuple(str(member["name"]) for member in members),
        scale,
    )


def _member(folder: Path, name: str) -> Path:
    """The folder of a member, which is within that of its ensemble."""
    place = folder / name
    if Path(name).is_absolute() or folder.resolve() not in place.resolve().parents:
        raise CrossAlignError(
            f"{folder / ENSEMBLE}: member '{name}' is not within {folder}, and an ensemble holds copies of its models; "
            "make it again with 'crossalign ensemble'"
        )
    if not place.is_dir():
        # A name that is no folder might be one of the Hub.
        raise CrossAlignError(f"{folder / ENSEMBLE}: member '{name}' is missing; make the ensemble again")
    return place
