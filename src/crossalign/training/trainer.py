"""The training loop, flat from top to bottom."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from rich.progress import Progress

from crossalign.data.batch import Batch
from crossalign.errors import CrossAlignError
from crossalign.files import write_json, write_text
from crossalign.losses import HingeRankingLoss
from crossalign.model_folder import check_replaceable
from crossalign.processes import Processes, joined_processes
from crossalign.progress import progress_bar
from crossalign.recipe import Recipe
from crossalign.training.checkpoint import (
    CHECKPOINT,
    begin_drawing,
    load_checkpoint,
    random_state,
    save_checkpoint,
)
from crossalign.training.guards import CollapseGuard, check_finite
from crossalign.training.idle_settings import refuse_idle_settings
from crossalign.training.metrics import MetricsLog
from crossalign.training.parts import TrainingParts
from crossalign.training.precision import Overflow
from crossalign.training.run_folder import (
    RECIPE,
    check_model,
    check_place,
    check_recipe,
    cleared_without_step,
    read_outcome,
)
from crossalign.training.state import RunState, keep_epoch, promote_best, stage_best

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
                f"{folder}: holds a run already; continue it with --resume auto, or choose another folder with --out"
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

    # ---- where to begin
    parts = TrainingParts.assemble(recipe, processes)
    state = RunState()
    if checkpoint is not None:
        parts.load_state_dict(checkpoint)
        state = RunState(**checkpoint["state"])
    elif processes.first:
        write_text(folder / RECIPE, recipe.to_yaml())
    processes.same_start(parts.modules)
    log = None
    if processes.first:
        log = MetricsLog(folder, resume_step=state.step, tensorboard=recipe.training.tensorboard)

    # ---- the loop
    with cleared_without_step(folder, log, state), progress_bar(progress) as bar:
        run = _Run(parts, state, folder, log, bar)
        begin_drawing(recipe.seed, processes, None if checkpoint is None else checkpoint["random"])
        while not run.over:
            run.train_epoch()
            if run.validates:
                run.validate()
            run.save()
            if processes.first:
                promote_best(folder, state.best_epoch)
    if log is not None:
        log.close()

    # ---- how it went
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


class _Run:
    """A run under way: what it trains with, where it stands, and where it tells of it.

    Args:
        log: None in a process that writes nothing.
    """

    def __init__(
        self, parts: TrainingParts, state: RunState, folder: Path, log: MetricsLog | None, bar: Progress
    ) -> None:
        self.parts, self.state, self.folder, self.log, self.bar = parts, state, folder, log, bar
        self.settings = parts.recipe.training
        self.collapse = CollapseGuard(count=state.collapsed)
        self.overflow = Overflow(parts.fabric)
        self.total = len(parts.sampler) * self.settings.epochs
        self.task = bar.add_task("train", total=self.total, completed=state.step, status="")

    @property
    def over(self) -> bool:
        """Whether nothing is left to do; so it is, too, for a run that was killed after patience had ended it."""
        patience = self.settings.patience
        return self.state.epoch >= self.settings.epochs or (
            patience is not None and self.state.stale >= patience
        )

    @property
    def validates(self) -> bool:
        """Whether the epoch that has just ended is one to validate after."""
        return (
            self.state.epoch % self.settings.validate_every == 0 or self.state.epoch == self.settings.epochs
        )

    def train_epoch(self) -> None:
        """The steps that are left of an epoch."""
        state, every = self.state, self.settings.checkpoint_every
        self.parts.begin_epoch(state.epoch, state.epoch_step)
        mark, cpu_mark = time.perf_counter(), time.process_time()
        for batch in self.parts.loader:
            loaded = time.perf_counter()
            self.step(batch.to(self.parts.fabric.device))
            now, cpu_now = time.perf_counter(), time.process_time()
            state.data_seconds += loaded - mark
            state.seconds += now - mark
            state.cpu_seconds += cpu_now - cpu_mark
            if every is not None and state.step % every == 0 and state.epoch_step < len(self.parts.sampler):
                self.save()
            self.bar.advance(self.task)
            mark, cpu_mark = time.perf_counter(), time.process_time()
        state.epoch += 1
        state.epoch_step = 0

    def step(self, batch: Batch) -> None:
        """Forward, backward, optimiser."""
        parts, state = self.parts, self.state
        # The last step of a run that is too short for any other.
        only = state.step + 1 == self.total < self.settings.log_every
        logged = only or (state.step + 1) % self.settings.log_every == 0
        terms, numbers = parts.step.forward(batch, logged)
        loss = parts.objective.total(terms)
        state.step += 1
        state.epoch_step += 1
        check_finite(terms, None, state.step, batch)
        parts.step.backward(loss)
        norm = parts.clipped_norm()
        rate = max(group["lr"] for group in parts.optimizer.param_groups)
        left_out = self.overflow.check(norm)
        if not left_out:
            check_finite(terms, norm, state.step, batch)
        parts.optimizer.step()
        if not left_out:
            parts.schedule.step()
            parts.average.update(state.epoch)
        parts.optimizer.zero_grad(set_to_none=True)
        base = parts.objective.base
        if isinstance(base, HingeRankingLoss) and base.negatives == "hardest":
            self.collapse.check(base.collapsed(terms["hinge"].item(), self.settings.batch_size), state.step)
            state.collapsed = self.collapse.count
        if logged and self.log is not None:
            told: dict[str, Any] = {"epoch": state.epoch + 1, "loss": loss.item()}
            told |= {name: value.item() for name, value in (terms | numbers).items()}
            told |= {"gradient_norm": None if left_out else norm.item(), "rate": rate}
            self.log.write("train", state.step, told)
            self._show(
                f"epoch {state.epoch + 1}  loss {loss.item():.3f}  best R@sum {max(state.best, 0):.1f}"
            )

    def validate(self) -> None:
        """Measure the epoch that has just ended, and keep its model where it is the best so far."""
        parts, state, first = self.parts, self.state, self.parts.processes.first
        with parts.average.applied():
            metrics = parts.validate()
            if self.log is not None:
                self.log.write("validation", state.step, {"epoch": state.epoch, **metrics})
            if metrics["rsum"] > state.best:
                state.best, state.best_epoch, state.stale = metrics["rsum"], state.epoch, 0
                if first:
                    stage_best(self.folder, parts.model, state.epoch)
            else:
                state.stale += 1
            if first and self.settings.keep_epochs is not None:
                keep_epoch(self.folder, parts.model, state.epoch, self.settings.keep_epochs)
        self._show(f"epoch {state.epoch}  R@sum {metrics['rsum']:.1f}  best {state.best:.1f}")

    def save(self) -> None:
        """Write the checkpoint; every process calls it, the first one writes."""
        random = self.parts.processes.collect(random_state())
        if self.parts.processes.first:
            content = {**self.parts.state_dict(), "random": random, "state": asdict(self.state)}
            save_checkpoint(self.folder / CHECKPOINT, content)

    def _show(self, status: str) -> None:
        self.bar.update(self.task, status=status)
