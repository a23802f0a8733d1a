"""Evaluating what a training run, a model folder or a Hub name stands for, on its own data or on other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crossalign.errors import CrossAlignError
from crossalign.evaluation.grounding import GroundingResult
from crossalign.evaluation.of_model import evaluate_model
from crossalign.evaluation.results import RetrievalResult
from crossalign.evaluation.scene_words import ground_scenes, has_scene_truth
from crossalign.files import write_json
from crossalign.model import RetrievalModel
from crossalign.recipe import Recipe, load_recipe
from crossalign.sources import Sources

__all__ = ["RunEvaluation", "evaluate_run", "run_recipe", "run_sources"]


@dataclass(frozen=True)
class RunEvaluation:
    """What was measured, and with which model.

    Attributes:
        model: the model, loaded.
        result: retrieval in both directions.
        grounding: word-to-region accuracy, where the collection knows what its words mean.
    """

    model: RetrievalModel
    result: RetrievalResult
    grounding: GroundingResult | None

    def save(self, folder: str | Path) -> None:
        """Write the result's folder, replacing an old result."""
        self.result.save(folder, overwrite=True)
        if self.grounding is not None:
            write_json(Path(folder) / "grounding.json", self.grounding.to_json())

    def to_dict(self) -> dict[str, Any]:
        """One document for machines."""
        extra = {} if self.grounding is None else {"grounding": self.grounding.to_json()}
        return self.result.to_dict() | extra


def run_recipe(name: str | Path) -> Recipe | None:
    """The recipe of a training run; None where ``name`` is no run."""
    path = Path(name) / "recipe.yaml"
    return load_recipe(path) if path.is_file() else None


def run_sources(
    name: str | Path,
    collection: str | Path | None = None,
    image_features: Sequence[str] = (),
    text_features: str | None = None,
    *,
    raw: bool = False,
) -> Sources:
    """The collection and the stores to measure a model on.

    A run's own stores stand in for those that are not named, unless another collection is named or ``raw`` asks for
    photos and captions themselves.

    Raises:
        CrossAlignError: no collection is named, neither here nor by a run; no such collection or store.
    """
    recipe = run_recipe(name)
    place = collection or (recipe.data.collection if recipe is not None else None)
    if place is None:
        raise CrossAlignError(f"{name}: not a training run, so it names no collection; give --collection")
    stores, text_store = tuple(image_features), text_features
    if recipe is not None and collection is None and not raw:
        stores, text_store = stores or recipe.data.image_features, text_store or recipe.data.text_features
    return Sources.open(place, stores, text_store)


def evaluate_run(
    name: str | Path,
    *,
    collection: str | Path | None = None,
    split: str = "test",
    folds: int = 1,
    image_features: Sequence[str] = (),
    text_features: str | None = None,
    raw: bool = False,
    device: str | torch.device = "cpu",
    command: str = "",
    progress: bool = False,
) -> RunEvaluation:
    """Measure retrieval and, on synthetic scenes, word-to-region accuracy.

    Args:
        name: a training run, a model folder, or a model of the Hugging Face Hub.
        collection: folder of the collection; the run's own by default.
        image_features, text_features: stores instead of photos and captions; the run's own by default, on its own
            collection.
        raw: encode photos and captions themselves, no stores of the run.
        command: kept with the result.

    Raises:
        CrossAlignError: nothing is there or it does not fit, or no collection is known.
    """
    model = RetrievalModel.from_pretrained(name, device)
    sources = run_sources(name, collection, image_features, text_features, raw=raw)
    result = evaluate_model(model, sources, split, folds=folds, command=command, progress=progress)
    grounding = ground_scenes(model, sources, split) if has_scene_truth(sources) else None
    return RunEvaluation(model, result, grounding)
