"""Evaluating what a training run, a model folder or a Hub name stands for, on its own data or on other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from crossalign.ensemble import Scale, chosen_scale, is_ensemble, read_ensemble
from crossalign.errors import CrossAlignError
from crossalign.evaluation.ensembles import Member, ensemble_gallery
from crossalign.evaluation.gallery import Gallery
from crossalign.evaluation.grounding import GroundingResult
from crossalign.evaluation.of_model import (
    Hubness,
    SecondStage,
    check_first,
    check_folds,
    check_second,
    split_gallery,
)
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
        model: the model, loaded; of an ensemble the first one.
        sources: what it was given.
        more_sources: what the other members of an ensemble were given.
        gallery: what it made of the split.
        result: retrieval in both directions.
        grounding: word-to-region accuracy, where the collection knows what its words mean; None for an ensemble.
        no_grounding: why it could not be measured, although the collection knows; empty where it was or was not asked.
    """

    model: RetrievalModel
    sources: Sources
    gallery: Gallery
    result: RetrievalResult
    grounding: GroundingResult | None
    more_sources: tuple[Sources, ...] = ()
    no_grounding: str = ""

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
    ensemble_with: Sequence[str | Path] = (),
    scale: Scale | None = None,
    hubness: Hubness | None = None,
    device: str | torch.device = "cpu",
    command: str = "",
    progress: bool = False,
) -> RunEvaluation:
    """Measure retrieval and, on synthetic scenes, word-to-region accuracy.

    Args:
        name: a training run, a model folder, the folder of an ensemble, or a model of the Hugging Face Hub.
        collection: folder of the collection; the run's own by default.
        image_features, text_features: stores instead of photos and captions; the run's own by default, see
            :func:`~crossalign.evaluation.run_sources.run_sources`.
        raw: encode photos and captions themselves, no stores of the run.
        width: cut the embeddings to that many numbers, see :func:`~crossalign.truncation.truncate`.
        rerank: a run or a model that scores pairs and puts the best ``rerank_top`` of each query into its own order. A
            model on imported features that is no run is given the first model's.
        ensemble_with: more of what ``name`` may be; the mean of all models' scores is measured. Each reads the stores
            of its own run; ``image_features`` and ``text_features`` are the first one's.
        scale: of the mean; see :func:`~crossalign.ensemble.chosen_scale`.
        hubness: corrects the scores for hubs, see :class:`~crossalign.evaluation.of_model.Hubness`.
        command: kept with the result.

    Raises:
        CrossAlignError: nothing is there or it does not fit, or no collection is known.
    """
    if ensemble_with or is_ensemble(name):
        for option, value in (("--width", width), ("--rerank", rerank), ("--hubness", hubness)):
            if value is not None:
                raise CrossAlignError(f"{option}: is for one model, not for an ensemble; leave it out")
        members, scale = _members(
            [name, *ensemble_with], scale, collection, image_features, text_features, raw, device
        )
        check_folds(members[0][1].sources, split, folds)
        encoded = ensemble_gallery([member for _, member in members], split, scale, progress=progress)
        trained = {trained_on(place) for place, _ in members}
        known = trained.pop() if len(trained) == 1 else None
        result = replace(encoded.result(folds=folds, command=command), trained_on=known)
        first = members[0][1]
        more = tuple(member.sources for _, member in members[1:])
        return RunEvaluation(first.model, first.sources, encoded.gallery, result, None, more)
    if scale is not None:
        raise CrossAlignError("--scale: says how several models' scores are averaged; name another (--with)")
    model = RetrievalModel.from_pretrained(name, device)
    sources = run_sources(name, collection, image_features, text_features, raw=raw)
    check_folds(sources, split, folds)
    reranker = None
    if rerank is not None:
        check_first(model, name)
        second = RetrievalModel.from_pretrained(rerank, device)
        check_second(second, rerank)
        reranker = SecondStage(
            second, _second_sources(rerank, second, sources, raw), rerank_top, told_name(rerank)
        )
    encoded = split_gallery(
        model, sources, split, width=width, reranker=reranker, hubness=hubness, progress=progress
    )
    result = encoded.result(folds=folds, command=command)
    result = replace(result, trained_on=trained_on(name))
    grounding, why = None, ""
    if has_scene_truth(sources):
        try:
            grounding = ground_scenes(model, sources, split)
        except CrossAlignError as error:
            # Retrieval has been measured by now, and is what was asked for first.
            why = str(error)
    return RunEvaluation(model, sources, encoded.gallery, result, grounding, no_grounding=why)


def _second_sources(name: str | Path, model: RetrievalModel, first: Sources, raw: bool) -> Sources:
    """What a second model is given: its own run's stores in the first one's collection."""
    stores: tuple[str, ...] = ()
    if not raw and model.image_tower.input is None and run_recipe(name) is None:
        # It takes imported features alone and names none of its own, as converted models.
        stores = tuple(str(store.folder.resolve()) for store in first.image_stores)
    return run_sources(name, first.collection.folder, stores, raw=raw)


def _members(
    names: Sequence[str | Path],
    scale: Scale | None,
    collection: str | Path | None,
    image_features: Sequence[str],
    text_features: str | None,
    raw: bool,
    device: str | torch.device,
) -> tuple[list[tuple[str | Path, Member]], Scale]:
    """The models of an ensemble with the places they come from, and what of their scores is averaged."""
    places: list[tuple[str | Path, str]] = []
    for name in names:
        if is_ensemble(name):
            stored = read_ensemble(name)
            places += zip(stored.members, stored.names, strict=True)
            # With other models beside it, what suits is chosen anew.
            scale = scale or (stored.scale if len(names) == 1 else None)
        else:
            places.append((name, told_name(name)))
    members: list[tuple[str | Path, Member]] = []
    for place, told in places:
        model = RetrievalModel.from_pretrained(place, device)
        if members:
            sources = _second_sources(place, model, members[0][1].sources, raw)
        else:
            sources = run_sources(place, collection, image_features, text_features, raw=raw)
        members.append((place, Member(model, sources, told)))
    return members, chosen_scale([member.model.config for _, member in members], scale)
