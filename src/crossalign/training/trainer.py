"""The training loop, flat from top to bottom."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning_fabric import Fabric
from torch import Tensor, nn

from crossalign.data.batch import Batch
from crossalign.data.loading import PairSampler, TrainingLoader
from crossalign.encode import encode_split
from crossalign.errors import CrossAlignError
from crossalign.evaluation import recall
from crossalign.files import read_json, write_json, write_text
from crossalign.losses import HingeRankingLoss
from crossalign.model import RetrievalModel
from crossalign.objective import Objective
from crossalign.progress import progress_bar
from crossalign.recipe import Recipe, TrainingSettings, differing_settings
from crossalign.sources import Sources
from crossalign.training.assemble import assemble_model
from crossalign.training.checkpoint import (
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from crossalign.training.diagnostics import Diagnostics
from crossalign.training.guards import CollapseGuard, check_finite
from crossalign.training.metrics import MetricsLog
from crossalign.training.schedule import build_optimizer, build_schedule

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
    """

    best_rsum: float
    best_epoch: int
    epochs: int
    steps: int
    seconds: float
    data_seconds: float


class _Step(nn.Module):
    """Model and objective as one module, so that one wrapper gives both precision and placement."""

    def __init__(self, model: RetrievalModel, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.diagnostics = Diagnostics(objective)

    def forward(self, batch: Batch, inspect: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The loss terms and, with ``inspect``, the numbers beside them."""
        image, text = self.model.image_tower(batch.image), self.model.text_tower(batch.text)
        terms = self.objective(image, text, batch.image_rows)
        if not inspect:
            return terms, {}
        return terms, self.diagnostics(self.objective, terms, image, text, batch.image_rows)


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
    checkpoint_path = folder / "checkpoints" / "last.ckpt"
    checkpoint = None
    if (folder / "recipe.yaml").exists():
        if resume == "never":
            raise CrossAlignError(
                f"{folder}: holds a run already; continue it with --resume auto, or choose another"
            )
        _refuse_other_recipe(recipe, folder / "recipe.yaml")
        if (folder / "training.json").exists():
            return TrainingResult(**read_json(folder / "training.json"))
        checkpoint = load_checkpoint(checkpoint_path) if checkpoint_path.exists() else None

    # ---- data, model, objective
    data = recipe.data
    sources = Sources.open(data.collection, data.image_features, data.text_features)
    model = assemble_model(recipe, sources)
    split, images, texts = sources.split(model, data.train, flip=data.flip, crop=data.crop)
    validation, validation_images, validation_texts = sources.split(model, data.validation)
    objective = Objective(recipe.objective, recipe.model.dim, context_head=recipe.model.context_head)
    sampler = PairSampler(
        split,
        recipe.training.batch_size,
        recipe.seed,
        images_first=data.epoch == "images",
        captions_per_image=data.captions_per_image,
    )
    loader = TrainingLoader(split, images, texts, sampler, data.workers)

    # ---- device, precision, optimiser
    fabric = _fabric(recipe.training)
    optimizer = build_optimizer(model, objective, recipe.optimizer)
    schedule = build_schedule(
        optimizer, recipe.optimizer, steps_per_epoch=len(sampler), epochs=recipe.training.epochs
    )
    step_module, optimizer = fabric.setup(_Step(model, objective), optimizer)
    frozen = {name for name, value in step_module.module.named_parameters() if not value.requires_grad}
    frozen -= {"objective.lca.codebook"}

    # ---- where to begin
    epoch, step, best, best_epoch, stale, seconds, data_seconds = 0, 0, -1.0, 0, 0, 0.0, 0.0
    start = 0
    if checkpoint is not None:
        state = step_module.module.state_dict()
        state.update(checkpoint["weights"])
        step_module.module.load_state_dict(state)
        optimizer.load_state_dict(checkpoint["optimizer"])
        schedule.load_state_dict(checkpoint["schedule"])
        epoch, start, step = checkpoint["epoch"], checkpoint["epoch_step"], checkpoint["step"]
        best, best_epoch, stale = checkpoint["best"], checkpoint["best_epoch"], checkpoint["stale"]
        seconds, data_seconds = checkpoint["seconds"], checkpoint["data_seconds"]
    else:
        write_text(folder / "recipe.yaml", recipe.to_yaml())
        torch.manual_seed(recipe.seed)
    log = MetricsLog(folder, resume_step=step, tensorboard=recipe.training.tensorboard)
    guard = CollapseGuard()
    guard.count = checkpoint["collapse_count"] if checkpoint is not None else 0

    def snapshot(next_epoch: int, epoch_step: int) -> None:
        weights = {
            name: value for name, value in step_module.module.state_dict().items() if name not in frozen
        }
        save_checkpoint(
            checkpoint_path,
            {
                "weights": weights,
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "random": random_state(),
                "epoch": next_epoch,
                "epoch_step": epoch_step,
                "step": step,
                "best": best,
                "best_epoch": best_epoch,
                "stale": stale,
                "seconds": seconds,
                "data_seconds": data_seconds,
                "collapse_count": guard.count,
            },
        )

    # ---- the loop
    with progress_bar(progress) as bar:
        task = bar.add_task("train", total=len(sampler) * recipe.training.epochs, completed=step, status="")
        if checkpoint is not None:
            restore_random_state(checkpoint["random"])
        # A run that was killed after its last epoch has nothing left to do, also where patience ended it.
        patience = recipe.training.patience
        while epoch < recipe.training.epochs and (patience is None or stale < patience):
            objective.begin_epoch(epoch)
            step_module.module.diagnostics.begin_epoch(epoch)
            step_module.train()
            sampler.seek(epoch, start)
            mark = time.perf_counter()
            for offset, batch in enumerate(loader, start=start):
                loaded = time.perf_counter()
                batch = batch.to(fabric.device)
                logged = (step + 1) % recipe.training.log_every == 0
                terms, numbers = step_module(batch, logged)
                loss = objective.total(terms)
                check_finite(terms, None, step + 1, batch)
                fabric.backward(loss)
                norm = _clip(fabric, step_module, optimizer, recipe.optimizer.clip_norm)
                check_finite(terms, norm, step + 1, batch)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                schedule.step()
                step += 1
                if isinstance(objective.base, HingeRankingLoss) and objective.base.negatives == "hardest":
                    guard.check(objective.base.collapsed(terms["hinge"].item(), len(batch.image_ids)), step)
                if logged:
                    values = {name: value.item() for name, value in (terms | numbers).items()}
                    rate = max(group["lr"] for group in optimizer.param_groups)
                    log.write(
                        "train",
                        step,
                        {
                            "epoch": epoch + 1,
                            "loss": loss.item(),
                            **values,
                            "gradient_norm": norm.item(),
                            "rate": rate,
                        },
                    )
                    bar.update(
                        task,
                        status=f"epoch {epoch + 1}  loss {loss.item():.3f}  best R@sum {max(best, 0):.1f}",
                    )
                now = time.perf_counter()
                data_seconds += loaded - mark
                seconds += now - mark
                every = recipe.training.checkpoint_every
                if every is not None and step % every == 0 and offset + 1 < len(sampler):
                    snapshot(epoch, offset + 1)
                bar.advance(task)
                mark = time.perf_counter()
            start = 0
            epoch += 1
            if epoch % recipe.training.validate_every == 0 or epoch == recipe.training.epochs:
                embeddings = encode_split(model, validation_images, validation_texts)
                metrics = recall(*embeddings, validation.image_of_text)
                log.write("validation", step, {"epoch": epoch, **metrics})
                if metrics["rsum"] > best:
                    best, best_epoch, stale = metrics["rsum"], epoch, 0
                    model.save_pretrained(folder / "model")
                else:
                    stale += 1
                bar.update(task, status=f"epoch {epoch}  R@sum {metrics['rsum']:.1f}  best {best:.1f}")
            snapshot(epoch, 0)
    log.close()
    result = TrainingResult(best, best_epoch, epoch, step, seconds, data_seconds)
    write_json(folder / "training.json", asdict(result))
    return result


def _fabric(settings: TrainingSettings) -> Fabric:
    precision: Any = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}.get(settings.precision)
    try:
        fabric = Fabric(accelerator=settings.accelerator, devices=1)
    except RuntimeError:
        raise CrossAlignError(
            f"training.accelerator: {settings.accelerator} is not available here; use auto or cpu"
        ) from None
    on_gpu = fabric.device.type == "cuda"
    if precision is None:
        precision = "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
    if precision == "16-mixed" and not on_gpu:
        raise CrossAlignError("training.precision: fp16 needs a GPU; use auto, bf16 or 32")
    return Fabric(accelerator=settings.accelerator, devices=1, precision=precision)


def _clip(fabric: Fabric, module: Any, optimizer: Any, limit: float | None) -> Tensor:
    """Clip the whole gradient; returns its norm before."""
    # An infinite limit only measures.
    norm = fabric.clip_gradients(
        module, optimizer, max_norm=limit if limit is not None else float("inf"), error_if_nonfinite=False
    )
    assert norm is not None
    return norm


def _refuse_other_recipe(recipe: Recipe, path: Path) -> None:
    """Resuming another recipe would mix two runs."""
    differing = differing_settings(recipe, yaml.safe_load(path.read_text(encoding="utf-8")))
    if differing:
        raise CrossAlignError(
            f"{path}: the run there has another recipe ({', '.join(differing)}); choose another folder"
        )
