"""The training loop, flat from top to bottom."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from lightning_fabric import Fabric
from torch import Tensor

from crossalign.data.loading import TrainingLoader
from crossalign.data.teachers import TeacherSource
from crossalign.errors import CrossAlignError
from crossalign.evaluation.of_model import split_metrics
from crossalign.evaluation.scene_words import region_rule
from crossalign.files import write_json, write_text
from crossalign.losses import HingeRankingLoss
from crossalign.model_folder import check_replaceable
from crossalign.objective import Objective
from crossalign.processes import Processes, joined_processes
from crossalign.progress import progress_bar
from crossalign.recipe import Recipe
from crossalign.sources import Sources
from crossalign.training.assemble import assemble_model, training_sampler
from crossalign.training.checkpoint import (
    CHECKPOINT,
    begin_drawing,
    load_checkpoint,
    random_state,
    save_checkpoint,
)
from crossalign.training.fine_tuning import checkpoint_gradients, freeze_blocks, keep_frozen_norms
from crossalign.training.guards import CollapseGuard, check_finite
from crossalign.training.idle_settings import refuse_idle_settings
from crossalign.training.metrics import MetricsLog
from crossalign.training.moving_average import MovingAverage
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
from crossalign.training.state import RunState, keep_epoch, promote_best, stage_best
from crossalign.training.step import TrainingModules, TrainingStep
from crossalign.training.warm_start import begins_warm, warm_start
from crossalign.training.word_notes import token_notes

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


def train(
    recipe: Recipe, folder: str | Path, *, resume: Literal["auto", "never"] = "never", progress: bool = True
) -> TrainingResult:
    """Train a recipe into a run folder.

    Where ``torchrun`` has started several processes, each encodes its share of every batch, the losses see all of it,
    and the first process writes and validates.

    The folder gets ``recipe.yaml`` (defaults included), ``metrics.jsonl``, ``tensorboard/``,
    ``checkpoints/last.ckpt``, ``model/`` (best validation R@sum so far) and at the end ``training.json``.

    Args:
        resume: ``"auto"`` goes on from the folder's checkpoint, if there is one, and ends with the weights that an
            uninterrupted run would have (on a CPU bit for bit); ``"never"`` refuses a folder with a run in it.

    Raises:
        CrossAlignError: bad settings or data, a run that is in the way, a loss that is not finite or has collapsed.
    """
    with joined_processes(recipe.training.accelerator) as processes:
        return _train(recipe, Path(folder), resume, progress and processes.first, processes)


def _what_is_there(recipe: Recipe, folder: Path, resume: str) -> TrainingResult | bool:
    """The result of a run that is finished, or whether there is a checkpoint to go on from."""
    check_place(folder)
    begun = False
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
        begun = (folder / CHECKPOINT).exists()
        best_epoch = load_checkpoint(folder / CHECKPOINT)["state"]["best_epoch"] if begun else 0
        if best_epoch:
            promote_best(folder, best_epoch)
            check_model(folder)
    check_replaceable(folder / "model")
    return begun


def _train(recipe: Recipe, folder: Path, resume: str, progress: bool, processes: Processes) -> TrainingResult:
    # ---- what is there already
    found = processes.agree(lambda: _what_is_there(recipe, folder, resume))
    if isinstance(found, TrainingResult):
        return found
    checkpoint = load_checkpoint(folder / CHECKPOINT) if found else None
    if checkpoint is None:
        refuse_idle_settings(recipe)

    if recipe.training.batch_size < processes.count:
        raise CrossAlignError(
            f"training.batch_size is {recipe.training.batch_size} and {processes.count} processes share a batch; start "
            "fewer, or raise it"
        )

    # ---- data, model, objective
    data = recipe.data
    sources = Sources.open(data.collection, data.image_features, data.text_features)
    model = assemble_model(recipe, sources)
    split, images, texts = sources.split(model, data.train, flip=data.flip, crop=data.crop)
    validation, validation_images, validation_texts = sources.split(model, data.validation)
    tokenizer = model.text_tower.tokenizer
    objective = Objective(recipe.objective, model.config, vocabulary=tokenizer.size if tokenizer else 0)
    sampler = training_sampler(recipe, split)
    notes = token_notes(recipe.objective, model, sources, split)
    teachers = None
    if recipe.objective.asks_teachers and data.teachers is not None:
        teachers = TeacherSource.open(sources.collection, split, data.teachers.images, data.teachers.texts)
    loader = TrainingLoader(split, images, texts, sampler, data.workers, notes, teachers, processes)

    # ---- device, precision, optimiser
    fabric = build_fabric(recipe.training, processes)
    freeze_blocks(model, recipe.optimizer)
    if recipe.training.gradient_checkpointing:
        checkpoint_gradients(model)
    optimizer = build_optimizer(model, objective, recipe.optimizer)
    schedule = build_schedule(
        optimizer, recipe.optimizer, steps_per_epoch=len(sampler), epochs=recipe.training.epochs
    )
    modules = TrainingModules(model, objective, region_rule(model, sources), processes)
    wrapped, optimizer = fabric.setup(modules, optimizer)
    step = TrainingStep(fabric, modules, recipe.training.mini_batch_size)
    frozen = {name for name, value in modules.named_parameters() if not value.requires_grad}
    frozen -= {"objective.lca.codebook"}
    average = MovingAverage(model, recipe.training.ema)

    # ---- where to begin
    state = RunState()
    if checkpoint is not None:
        weights = modules.state_dict()
        weights.update(checkpoint["weights"])
        modules.load_state_dict(weights)
        optimizer.load_state_dict(checkpoint["optimizer"])
        schedule.load_state_dict(checkpoint["schedule"])
        fabric.strategy.precision.load_state_dict(checkpoint["precision"])
        average.load_state_dict(checkpoint.get("average", {}))
        state = RunState(**checkpoint["state"])
    elif processes.first:
        write_text(folder / RECIPE, recipe.to_yaml())
    processes.same_start(modules)
    log = (
        MetricsLog(folder, resume_step=state.step, tensorboard=recipe.training.tensorboard)
        if processes.first
        else None
    )
    collapse = CollapseGuard(count=state.collapsed)
    overflow = Overflow(fabric)

    def snapshot() -> None:
        random = processes.collect(random_state())
        if not processes.first:
            return
        weights = {name: value for name, value in modules.state_dict().items() if name not in frozen}
        save_checkpoint(
            folder / CHECKPOINT,
            {
                "weights": weights,
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "precision": fabric.strategy.precision.state_dict(),
                "random": random,
                "state": asdict(state),
            },
        )

    # ---- the loop
    with cleared_without_step(folder, log, state), progress_bar(progress) as bar:
        total = len(sampler) * recipe.training.epochs
        task = bar.add_task("train", total=total, completed=state.step, status="")
        begin_drawing(recipe.seed, processes, None if checkpoint is None else checkpoint["random"])
        # A run that was killed after its last epoch has nothing left to do, also where patience ended it.
        patience = recipe.training.patience
        while state.epoch < recipe.training.epochs and (patience is None or state.stale < patience):
            objective.begin_epoch(state.epoch)
            modules.diagnostics.begin_epoch(state.epoch)
            if state.epoch_step == 0 and begins_warm(objective, state.epoch):
                sampler.seek(state.epoch)
                whole = TrainingLoader(split, images, texts, sampler)
                warm_start(objective, model, whole, fabric.device, recipe.seed)
                processes.same_start(objective)
            modules.train()
            keep_frozen_norms(model)
            sampler.seek(state.epoch, state.epoch_step)
            mark, cpu_mark = time.perf_counter(), time.process_time()
            for batch in loader:
                loaded = time.perf_counter()
                batch = batch.to(fabric.device)
                logged = (state.step + 1) % recipe.training.log_every == 0
                terms, numbers = step.forward(batch, logged)
                loss = objective.total(terms)
                state.step += 1
                state.epoch_step += 1
                check_finite(terms, None, state.step, batch)
                step.backward(loss)
                norm = _clip(fabric, wrapped, optimizer, recipe.optimizer.clip_norm)
                rate = max(group["lr"] for group in optimizer.param_groups)
                left_out = overflow.check(norm)
                if not left_out:
                    check_finite(terms, norm, state.step, batch)
                optimizer.step()
                if not left_out:
                    schedule.step()
                    average.update(state.epoch)
                optimizer.zero_grad(set_to_none=True)
                if isinstance(objective.base, HingeRankingLoss) and objective.base.negatives == "hardest":
                    collapse.check(
                        objective.base.collapsed(terms["hinge"].item(), recipe.training.batch_size),
                        state.step,
                    )
                    state.collapsed = collapse.count
                if logged and log is not None:
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
                with average.applied():
                    metrics = processes.agree(
                        lambda: split_metrics(model, validation, validation_images, validation_texts)
                    )
                    if log is not None:
                        log.write("validation", state.step, {"epoch": state.epoch, **metrics})
                    if metrics["rsum"] > state.best:
                        state.best, state.best_epoch, state.stale = metrics["rsum"], state.epoch, 0
                        if processes.first:
                            stage_best(folder, model, state.epoch)
                    else:
                        state.stale += 1
                    if processes.first and recipe.training.keep_epochs is not None:
                        keep_epoch(folder, model, state.epoch, recipe.training.keep_epochs)
                bar.update(
                    task, status=f"epoch {state.epoch}  R@sum {metrics['rsum']:.1f}  best {state.best:.1f}"
                )
            snapshot()
            if processes.first:
                promote_best(folder, state.best_epoch)
    if log is not None:
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
    if processes.first:
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
