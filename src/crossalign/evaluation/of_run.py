"""Evaluating what a training run, a model folder or a Hub name stands for, on its own data or on other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from crossalign.evaluation.gallery import Gallery
from crossalign.evaluation.grounding import GroundingResult
from crossalign.evaluation.of_model import SecondStage, check_first, check_second, split_gallery
from crossalign.evaluation.result_folder import GROUNDING, check_result_place
from crossalign.evaluation.results import RetrievalResult
from crossalign.evaluation.run_sources import run_recipe, run_sources, told_name, trained_on
from crossalign.evaluation.scene_words import ground_scenes, has_scene_truth
from crossalign.files import write_json
from crossalign.model import RetrievalModel
from crossalign.reranking import RERANK_TOP
from crossalign.sources import Sources

__all__ = ["RunEvaluation", "evaluate_run"]


@dataclass(frozen=True)
class RunEvaluation:
    """What was measured, and with which model.

    Attributes:
        model: the model, loaded.
        sources: what it was given.
        gallery: what it made of the split.
        result: retrieval in both directions.
        grounding: word-to-region accuracy, where the collection knows what its words mean.
    """

    model: RetrievalModel
    sources: Sources
    gallery: Gallery
    result: RetrievalResult
    grounding: GroundingResult | None

    def save(self, folder: str | Path) -> None:
        """Write the result's folder, replacing an old result.

        Raises:
            CrossAlignError: the folder holds anything else.
        """
        check_result_place(Path(folder))
        # That of an earlier evaluation would be taken for this one's.
        (Path(folder) / GROUNDING).unlink(missing_ok=True)
        self.result.save(folder, overwrite=True)
        if self.grounding is not None:
            write_json(Path(folder) / GROUNDING, self.grounding.to_json())

    def to_dict(self) -> dict[str, Any]:
        """One document for machines."""
        extra = {} if self.grounding is None else {"grounding": self.grounding.to_json()}
        return self.result.to_dict() | extra


def evaluate_run(
    name: str | Path,
    *,
    collection: str | Path | None = None,
    split: str = "test",
    folds: int = 1,
    image_features: Sequence[str] = (),
    text_features: str | None = None,
    raw: bool = False,
    width: int | None = None,
    rerank: str | Path | None = None,
    rerank_top: int = RERANK_TOP,
    device: str | torch.device = "cpu",
    command: str = "",
    progress: bool = False,
) -> RunEvaluation:
    """Measure retrieval and, on synthetic scenes, word-to-region accuracy.

    Args:
        name: a training run, a model folder, or a model of the Hugging Face Hub.
        collection: folder of the collection; the run's own by default.
        image_features, text_features: stores instead of photos and captions; the run's own by default, see
            :func:`~crossalign.evaluation.run_sources.run_sources`.
        raw: encode photos and captions themselves, no stores of the run.
        width: cut the embeddings to that many numbers, see :func:`~crossalign.truncation.truncate`.
        rerank: a run or a model that scores pairs and puts the best ``rerank_top`` of each query into its own order. A
            model on imported features that is no run is given the first model's.
        command: kept with the result.

    Raises:
        CrossAlignError: nothing is there or it does not fit, or no collection is known.
    """
    model = RetrievalModel.from_pretrained(name, device)
    sources = run_sources(name, collection, image_features, text_features, raw=raw)
    reranker = None
    if rerank is not None:
        check_first(model, name)
        second = RetrievalModel.from_pretrained(rerank, device)
        check_second(second, rerank)
        place = sources.collection.folder
        stores: tuple[str, ...] = ()
        if not raw and second.image_tower.input is None and run_recipe(rerank) is None:
            # It takes imported features alone and names none of its own, as converted models.
            stores = tuple(str(store.folder.resolve()) for store in sources.image_stores)
        reranker = SecondStage(
            second, run_sources(rerank, place, stores, raw=raw), rerank_top, told_name(rerank)
        )
    encoded = split_gallery(model, sources, split, width=width, reranker=reranker, progress=progress)
    result = encoded.result(folds=folds, command=command)
    result = replace(result, trained_on=trained_on(name))
    grounding = ground_scenes(model, sources, split) if has_scene_truth(sources) else None
    return RunEvaluation(model, sources, encoded.gallery, result, grounding)
