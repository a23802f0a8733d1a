"""The training loop, flat from top to bottom."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from crossalign.data.batch import Batch
from crossalign.data.loading import PairSampler, TrainingLoader
from crossalign.errors import CrossAlignError
from crossalign.evaluation.of_model import split_metrics
from crossalign.evaluation.region_match import Rule
from crossalign.evaluation.scene_words import region_rule
from crossalign.files import write_json, write_text
from crossalign.losses import HingeRankingLoss
from crossalign.model import RetrievalModel
from crossalign.model_folder import check_replaceable
from crossalign.objective import Objective
from crossalign.progress import progress_bar
from crossalign.recipe import Recipe
from crossalign.sources import Sources
from crossalign.training.assemble import assemble_model
from crossalign.training.checkpoint import (
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from crossalign.training.diagnostics import Diagnostics
from crossalign.training.fine_tuning import checkpoint_gradients, freeze_blocks, keep_frozen_norms
from crossalign.training.guards import CollapseGuard, check_finite
from crossalign.training.metrics import MetricsLog
from crossalign.training.precision import Overflow, build_fabric
from crossalign.training.run_folder import (
    RECIPE,
    check_model,
    check_place,
    check_recipe,
    cleared_without_step,
    read_outcome,
)
from crossalign.training.schedule import build_optimizer, build_schedule
from crossalign.training.state import RunState, promote_best, stage_best
from crossalign.training.warm_start import begins_warm, warm_start
from crossalign.training.word_notes import token_notes, with_regions

__all__ = ["TrainingResult", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """How a run went.

    Attributes:
        best_rsum: best validation R@sum, in percent points (0 to 600); the model folder holds that epoch's weights.
        best_epoch: epoch of the best, counted from 1.
        epochs: epochs done.
        steps: optimiser steps done.
        seconds: wall time of training steps, validation excluded, all resumed parts together.
        data_seconds: part of ``seconds`` spent waiting for batches.
        cpu_seconds: processor time of these steps, all threads of this process together; beside other work it tells
            more than ``seconds``. 0 for a run of a version that did not measure it.
    """

    best_rsum: float
    best_epoch: int
    epochs: int
    steps: int
    seconds: float
    data_seconds: float
    cpu_seconds: float = 0.0


class _Step(nn.Module):
    """Model and objective as one module, so that one wrapper gives both precision and placement."""

    def __init__(self, model: RetrievalModel, objective: Objective, rule: Rule) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.rule: Rule = rule
        self.diagnostics = Diagnostics(objective)

    def forward(self, batch: Batch, inspect: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The loss terms and, with ``inspect``, the numbers beside them."""
        image, text = self.model.image_tower(batch.image), self.model.text_tower(batch.text)
        scores = self.model.scores(image, text, keep_graph=self.objective.dense)
        notes = batch.notes
        if notes is not None and notes.objects is not None:
            boxes = self.model.image_tower.region_boxes(batch.image)
            notes = with_regions(notes, boxes, batch.image_rows, self.rule, image.mask.shape[1])
        terms = self.objective(scores, image, text, batch.image_rows, batch.text, notes)
        numbers: dict[str, Tensor] = {}
        if inspect:
            numbers = self.diagnostics(self.objective, terms, image, text, batch.image_rows, notes)
        self.objective.end_step(image)
        return terms, numbers


def train(
    recipe: Recipe, folder: str | Path, *, resume: Literal["auto", "never"] = "never", progress: bool = True
) -> TrainingResult:
    """Train a recipe into a run folder.

    The folder gets ``recipe.yaml`` (defaults included), ``metrics.jsonl``, ``tensorboard/``,
    ``checkpoints/last.ckpt``, ``model/`` (best validation R@sum so far) and at the end ``training.json``.

    Args:
        resume: ``"auto"`` goes on from the folder's checkpoint, if there is one, and ends with the weights that an
            uninterrupted run would have (on a CPU bit for bit); ``"never"`` refuses a folder with a run in it.

    Raises:
        CrossAlignError: bad settings or data, a run that is in the way, a loss that is not finite or has collapsed.
    """
    folder = Path(folder)

    # ---- what is there already
    check_place(folder)
    checkpoint_path = folder / "checkpoints" / "last.ckpt"
    checkpoint = None
    if (folder / RECIPE).exists():
        if resume == "never":
            raise CrossAlignError(
                f"{folder}: holds a run already; continue it with --resume auto, or choose another"
            )
        check_recipe(recipe, folder / RECIPE)
        if (folder / "training.json").exists():
            check_model(folder)
            names = {field.name for field in fields(TrainingResult)}
            return TrainingResult(**read_outcome(folder / "training.json", names, {"cpu_seconds"}))
        checkpoint = load_checkpoint(checkpoint_path) if checkpoint_path.exists() else None
        if checkpoint is not None and checkpoint["state"]["best_epoch"]:
            promote_best(folder, checkpoint["state"]["best_epoch"])
            check_model(folder)
    check_replaceable(folder / "model")

    # ---- data, model, objective
    data = recipe.data
    sources = Sources.open(data.collection, data.image_features, data.text_features)
    model = assemble_model(recipe, sources)
    split, images, texts = sources.split(model, data.train, flip=data.flip, crop=data.crop)
    validation, validation_images, validation_texts = sources.split(model, data.validation)
    tokenizer = model.text_tower.tokenizer
    objective = Objective(recipe.objective, model.config, vocabulary=tokenizer.size if tokenizer else 0)
    sampler = PairSampler(
        split,
        recipe.training.batch_size,
        recipe.seed,
        images_first=data.epoch == "images",
        captions_per_image=data.captions_per_image,
    )
    notes = token_notes(recipe.objective, model, sources, split)
    loader = TrainingLoader(split, images, texts, sampler, data.workers, notes)

    # ---- device, precision, optimiser
    fabric = build_fabric(recipe.training)
    freeze_blocks(model, recipe.optimizer)
    if recipe.training.gradient_checkpointing:
        checkpoint_gradients(model)
    optimizer = build_optimizer(model, objective, recipe.optimizer)
    schedule = build_schedule(
        optimizer, recipe.optimizer, steps_per_epoch=len(sampler), epochs=recipe.training.epochs
    )
    step_module, optimizer = fabric.setup(_Step(model, objective, region_rule(model, sources)), optimizer)
    frozen = {name for name, value in step_module.module.named_parameters() if not value.requires_grad}
    frozen -= {"objective.lca.codebook"}

    # ---- where to begin
    state = RunState()
    if checkpoint is not None:
        weights = step_module.module.state_dict()
        weights.update(checkpoint["weights"])
        step_module.module.load_state_dict(weights)
        optimizer.load_state_dict(checkpoint["optimizer"])
        schedule.load_state_dict(checkpoint["schedule"])
        fabric.strategy.precision.load_state_dict(checkpoint["precision"])
        state = RunState(**checkpoint["state"])
    else:
        write_text(folder / RECIPE, recipe.to_yaml())
        torch.manual_seed(recipe.seed)
    log = MetricsLog(folder, resume_step=state.step, tensorboard=recipe.training.tensorboard)
    collapse = CollapseGuard(count=state.collapsed)
    overflow = Overflow(fabric)

    def snapshot() -> None:
        weights = {
            name: value for name, value in step_module.module.state_dict().items() if name not in frozen
        }
        save_checkpoint(
            checkpoint_path,
            {
                "weights": weights,
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "precision": fabric.strategy.precision.state_dict(),
                "random": random_state(),
                "state": asdict(state),
            },
        )

    # ---- the loop
    with cleared_without_step(folder, log, state), progress_bar(progress) as bar:
        total = len(sampler) * recipe.training.epochs
        task = bar.add_task("train", total=total, completed=state.step, status="")
        if checkpoint is not None:
            restore_random_state(checkpoint["random"])
        # A run that was killed after its last epoch has nothing left to do, also where patience ended it.
        patience = recipe.training.patience
        while state.epoch < recipe.training.epochs and (patience is None or state.stale < patience):
            objective.begin_epoch(state.epoch)
            step_module.module.diagnostics.begin_epoch(state.epoch)
            if state.epoch_step == 0 and begins_warm(objective, state.epoch):
                sampler.seek(state.epoch)
                warm_start(objective, model, loader, fabric.device, recipe.seed)
            step_module.train()
            keep_frozen_norms(model)
            sampler.seek(state.epoch, state.epoch_step)
            mark, cpu_mark = time.perf_counter(), time.process_time()
            for batch in loader:
                loaded = time.perf_counter()
                batch = batch.to(fabric.device)
                logged = (state.step + 1) % recipe.training.log_every == 0
                terms, numbers = step_module(batch, logged)
                loss = objective.total(terms)
                state.step += 1
                state.epoch_step += 1
                check_finite(terms, None, state.step, batch)
                fabric.backward(loss)
                norm = _clip(fabric, step_module, optimizer, recipe.optimizer.clip_norm)
                rate = max(group["lr"] for group in optimizer.param_groups)
                left_out = overflow.check(norm)
                if not left_out:
                    check_finite(terms, norm, state.step, batch)
                optimizer.step()
                if not left_out:
                    schedule.step()
                optimizer.zero_grad(set_to_none=True)
                if isinstance(objective.base, HingeRankingLoss) and objective.base.negatives == "hardest":
                    collapse.check(
                        objective.base.collapsed(terms["hinge"].item(), len(batch.image_rows)), state.step
                    )
                    state.collapsed = collapse.count
                if logged:
                    values = {name: value.item() for name, value in (terms | numbers).items()}
                    log.write(
                        "train",
                        state.step,
                        {
                            "epoch": state.epoch + 1,
                            "loss": loss.item(),
                            **values,
                            "gradient_norm": None if left_out else norm.item(),
                            "rate": rate,
                        },
                    )
                    bar.update(
                        task,
                        status=f"epoch {state.epoch + 1}  loss {loss.item():.3f}  "
                        f"best R@sum {max(state.best, 0):.1f}",
                    )
                now, cpu_now = time.perf_counter(), time.process_time()
                state.data_seconds += loaded - mark
                state.seconds += now - mark
                state.cpu_seconds += cpu_now - cpu_mark
                every = recipe.training.checkpoint_every
                if every is not None and state.step % every == 0 and state.epoch_step < len(sampler):
                    snapshot()
                bar.advance(task)
                mark, cpu_mark = time.perf_counter(), time.process_time()
            state.epoch += 1
            state.epoch_step = 0
            if state.epoch % recipe.training.validate_every == 0 or state.epoch == recipe.training.epochs:
                metrics = split_metrics(model, validation, validation_images, validation_texts)
                log.write("validation", state.step, {"epoch": state.epoch, **metrics})
                if metrics["rsum"] > state.best:
                    state.best, state.best_epoch, state.stale = metrics["rsum"], state.epoch, 0
                    stage_best(folder, model, state.epoch)
                else:
                    state.stale += 1
                bar.update(
                    task, status=f"epoch {state.epoch}  R@sum {metrics['rsum']:.1f}  best {state.best:.1f}"
                )
            snapshot()
            promote_best(folder, state.best_epoch)
    log.close()
    result = TrainingResult(
        best_rsum=state.best,
        best_epoch=state.best_epoch,
        epochs=state.epoch,
        steps=state.step,
        seconds=state.seconds,
        data_seconds=state.data_seconds,
        cpu_seconds=state.cpu_seconds,
    )
    write_json(folder / "training.json", asdict(result))
    return result


def _clip(fabric: Fabric, module: Any, optimizer: Any, limit: float | None) -> Tensor:
    """Clip the whole gradient; returns its norm before."""
    # An infinite limit only measures.
    norm = fabric.clip_gradients(
        module, optimizer, max_norm=limit if limit is not None else float("inf"), error_if_nonfinite=False
    )
    assert norm is not None
    return norm
