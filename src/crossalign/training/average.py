"""The mean of several models' weights, as one model: epochs of a run, or runs that began alike."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crossalign.data.batch import Batch
from crossalign.data.loading import TrainingLoader
from crossalign.errors import CrossAlignError
from crossalign.evaluation.of_model import split_metrics
from crossalign.evaluation.run_sources import run_recipe, run_sources, told_name
from crossalign.files import write_json
from crossalign.folders import atomic_folder
from crossalign.model import RetrievalModel
from crossalign.model_folder import portable_settings
from crossalign.processes import ALONE
from crossalign.progress import tracked
from crossalign.recipe import Recipe
from crossalign.sources import Sources
from crossalign.training.assemble import training_sampler
from crossalign.training.fine_tuning import freeze_blocks, keep_frozen_norms
from crossalign.training.metrics import read_metrics
from crossalign.training.run_folder import AVERAGE, RECIPE
from crossalign.training.state import kept_epochs, kept_place

__all__ = [
    "AverageResult",
    "average_models",
    "average_run",
    "chosen_epochs",
    "measure_statistics",
    "statistics",
]

# Batches over which batch norms' statistics are measured, at most: as many as a short epoch has.
_BATCHES = 200


@dataclass(frozen=True)
class AverageResult:
    """What was averaged.

    Attributes:
        members: the models, as they were told.
        model: fingerprint of the mean.
        statistics_from: batches of training data that batch norms' statistics were measured on; 0 for a model without.
        validation_rsum: R@sum of the mean on the validation split; None where no run tells which that is.
    """

    members: tuple[str, ...]
    model: str
    statistics_from: int
    validation_rsum: float | None


def average_models(names: Sequence[str | Path], device: str | torch.device = "cpu") -> RetrievalModel:
    """The model whose weights are the mean of several models' (model soup; Wortsman et al., ICML 2022).

    One model is held at a time beside the sum. What is the same in all, such as frozen weights, stays as it is. What
    low-rank adaptation has learnt becomes part of the weights. Batch norms' statistics are averaged too, which is not
    what the mean of the weights would see: :func:`measure_statistics` measures them.

    Raises:
        CrossAlignError: fewer than two models, or models of different settings, vocabularies or weights.
    """
    if len(names) < 2:
        raise CrossAlignError("a mean needs two models or more; name another")
    first = _whole(names[0], device)
    sums = {name: value.double() for name, value in first.state_dict().items() if value.is_floating_point()}
    for name in names[1:]:
        other = _whole(name, device)
        _check_alike(first, names[0], other, name)
        values = other.state_dict()
        for key in sums:
            sums[key] += values[key]
    means = {key: total / len(names) for key, total in sums.items()}
    with torch.no_grad():
        for key, value in first.state_dict().items():
            if key in means:
                value.copy_(means[key])
    return first


def _whole(name: str | Path, device: str | torch.device) -> RetrievalModel:
    """A model with low-rank adaptation merged: the mean of products is not the product of means."""
    model = RetrievalModel.from_pretrained(name, device)
    if model.dual is not None and model.dual.settings.lora is not None:
        model.merge_lora()
        for half in (model.dual.image, model.dual.text):
            half.requires_grad_(False)
    return model


def _check_alike(
    first: RetrievalModel, name: str | Path, other: RetrievalModel, other_name: str | Path
) -> None:
    one, two = portable_settings(first.config), portable_settings(other.config)
    told = f"{other_name} and {name}"
    mend = "only weights of one architecture have a mean; for that of different models' scores: crossalign ensemble"
    differing = sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))
    if differing:
        raise CrossAlignError(f"{told}: differ in model.{differing[0]}; {mend}")
    if first.tokenizer_json() != other.tokenizer_json():
        raise CrossAlignError(f"{told}: have different vocabularies; {mend}")
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (first, other)]
    if shapes[0] != shapes[1]:
        raise CrossAlignError(f"{told}: have weights of different shapes; {mend}")


def statistics(model: nn.Module) -> list[nn.Module]:
    """The batch norms that measure while the model trains; those of frozen networks do not."""
    training = model.training
    model.train()
    keep_frozen_norms(model)
    norms = [module for module in model.modules() if module.training and _measures(module)]
    model.train(training)
    return norms


def _measures(module: nn.Module) -> bool:
    return isinstance(getattr(module, "running_mean", None), Tensor)


def measure_statistics(model: RetrievalModel, batches: Iterable[Batch]) -> int:
    """Set batch norms' statistics to their mean over batches; all else is as in evaluation, nothing is dropped.

    Returns:
        How many batches there were.
    """
    # Those of the scorers share no class with PyTorch's.
    norms: list[Any] = list(statistics(model))
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
    count = 0
    try:
        with torch.no_grad():
            for count, batch in enumerate(batches, start=1):
                for norm in norms:
                    # The mean over all batches so far; the first one replaces what was there.
                    norm.momentum = 1 / count
                batch = batch.to(model.device)
                model.scores(model.image_tower(batch.image), model.text_tower(batch.text))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
    return count


def chosen_epochs(run: Path, count: int, which: Literal["last", "best"]) -> list[int]:
    """The last or the best epochs of which a run has kept models, the best by validation R@sum.

    Raises:
        CrossAlignError: it has not kept so many, or there is no such run.
    """
    if count < 2:
        raise CrossAlignError(f"--{which} {count}: a mean needs two epochs or more")
    if not run.is_dir():
        raise CrossAlignError(f"{run}: no such run folder")
    kept = kept_epochs(run)
    if len(kept) < count:
        raise CrossAlignError(
            f"{run}: has kept the models of {len(kept)} epochs, asked for are {count}; train with "
            f"training.keep_epochs: {count} or more"
        )
    if which == "best":
        scores = {
            event["epoch"]: event["rsum"]
            for event in read_metrics(run / "metrics.jsonl")
            if event["kind"] == "validation"
        }
        kept = sorted(sorted(kept, key=lambda epoch: (-scores.get(epoch, -1.0), epoch))[:count])
    return kept[-count:]


def average_run(
    names: Sequence[str | Path],
    out: str | Path,
    *,
    count: int | None = None,
    which: Literal["last", "best"] = "last",
    collection: str | Path | None = None,
    device: str | torch.device = "cpu",
    command: str = "",
    progress: bool = False,
) -> AverageResult:
    """Write the mean of models as a folder that is used like a run: ``recipe.yaml``, ``model/``, ``average.json``.

    Batch norms' statistics are measured on the training split of the first run, which also gives the recipe.

    Args:
        names: runs or models; with ``count`` one run.
        out: a folder that is not there yet.
        count: that many epochs of the run, the ``which``.
        collection: folder of the run's collection, if it has moved.

    Raises:
        CrossAlignError: too few models, or ones that differ; batch norms, and no run to measure their statistics on; a
            place that is taken.
    """
    if Path(out).exists():
        raise CrossAlignError(f"{out}: already exists; remove it or choose another place (--out)")
    members = [Path(name) for name in names]
    if count is not None:
        if len(names) != 1:
            raise CrossAlignError(f"--{which}: takes the epochs of one run, {len(names)} are named; name one")
        members = [kept_place(Path(names[0]), epoch) for epoch in chosen_epochs(Path(names[0]), count, which)]
    model = average_models(members, device)
    recipe = run_recipe(names[0])
    if recipe is None and statistics(model):
        raise CrossAlignError(
            f"{names[0]}: no training run, and batch norms' statistics have to be measured again on training data; "
            "give the run, not its model"
        )
    batches, score = 0, None
    if recipe is not None:
        sources = run_sources(names[0], collection)
        freeze_blocks(model, recipe.optimizer)
        if statistics(model):
            drawn, number = _training_batches(model, recipe, sources)
            with tracked(drawn, "measure statistics", total=number, enabled=progress) as steps:
                batches = measure_statistics(model, steps)
        score = split_metrics(model, *sources.split(model, recipe.data.validation))["rsum"]
    told = tuple(told_name(member) for member in members)
    result = AverageResult(told, model.fingerprint, batches, score)
    with atomic_folder(out) as temporary:
        model.save_pretrained(temporary / "model")
        if recipe is not None:
            shutil.copyfile(Path(names[0]) / RECIPE, temporary / RECIPE)
        write_json(temporary / AVERAGE, asdict(result) | {"command": command})
    return result


def _training_batches(model: RetrievalModel, recipe: Recipe, sources: Sources) -> tuple[Iterator[Batch], int]:
    """Batches of the training split as the recipe draws them, and how many."""
    data = recipe.data
    split, images, texts = sources.split(model, data.train, flip=data.flip, crop=data.crop)
    sampler = training_sampler(recipe, split)
    loader = TrainingLoader(split, images, texts, sampler, processes=ALONE)
    number = min(len(sampler), _BATCHES)
    return islice(loader, number), number
