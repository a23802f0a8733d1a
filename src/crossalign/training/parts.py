"""All that takes part in a run, built from its recipe: data, towers, objective, optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from crossalign.data.collection import Split
from crossalign.data.loading import ImageSource, PairSampler, TextSource, TrainingLoader
from crossalign.data.teachers import TeacherSource
from crossalign.evaluation.of_model import split_metrics
from crossalign.evaluation.scene_words import region_rule
from crossalign.model import RetrievalModel
from crossalign.objective import Objective
from crossalign.processes import Processes
from crossalign.recipe import Recipe
from crossalign.sources import Sources
from crossalign.training.assemble import assemble_model, training_sampler
from crossalign.training.fine_tuning import checkpoint_gradients, freeze_blocks, keep_frozen_norms
from crossalign.training.moving_average import MovingAverage
from crossalign.training.precision import build_fabric
from crossalign.training.schedule import build_optimizer, build_schedule
from crossalign.training.step import TrainingModules, TrainingStep
from crossalign.training.warm_start import begins_warm, warm_start
from crossalign.training.word_notes import token_notes

__all__ = ["TrainingParts"]

SplitInputs = tuple[Split, ImageSource, TextSource]
"""A split with the inputs of its images and captions."""


@dataclass(frozen=True)
class TrainingParts:
    """What a run trains with; everything in it that changes while it runs is in :meth:`state_dict`.

    Attributes:
        training: the split that is trained on.
        validation: the split that the best epoch is chosen on.
        modules: model and objective together.
        wrapped: the same, as Fabric runs it.
        optimizer: as Fabric steps it.
        average: moving average of the model's weights; without the recipe's ``ema`` it averages nothing.
    """

    recipe: Recipe
    processes: Processes
    fabric: Fabric
    training: SplitInputs
    validation: SplitInputs
    sampler: PairSampler
    loader: TrainingLoader
    model: RetrievalModel
    objective: Objective
    modules: TrainingModules
    wrapped: Any
    optimizer: Any
    schedule: LambdaLR
    step: TrainingStep
    average: MovingAverage

    @classmethod
    def assemble(cls, recipe: Recipe, processes: Processes) -> TrainingParts:
        """Open the data, draw the weights by the recipe's seed, place everything on its device.

        Raises:
            CrossAlignError: bad settings or data, no such device.
        """
        # ---- data, model, objective
        data = recipe.data
        sources = Sources.open(data.collection, data.image_features, data.text_features)
        model = assemble_model(recipe, sources)
        training = split, images, texts = sources.split(model, data.train, flip=data.flip, crop=data.crop)
        validation = sources.split(model, data.validation)
        tokenizer = model.text_tower.tokenizer
        objective = Objective(recipe.objective, model.config, vocabulary=tokenizer.size if tokenizer else 0)
        sampler = training_sampler(recipe, split)
        notes = token_notes(recipe.objective, model, sources, split)
        teachers = None
        if recipe.objective.asks_teachers and data.teachers is not None:
            teachers = TeacherSource.open(
                sources.collection, split, data.teachers.images, data.teachers.texts
            )
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
        return cls(
            recipe=recipe,
            processes=processes,
            fabric=fabric,
            training=training,
            validation=validation,
            sampler=sampler,
            loader=loader,
            model=model,
            objective=objective,
            modules=modules,
            wrapped=wrapped,
            optimizer=optimizer,
            schedule=schedule,
            step=TrainingStep(fabric, modules, recipe.training.mini_batch_size),
            average=MovingAverage(model, recipe.training.ema),
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a run changes; frozen weights are left out, LCA's codebook, frozen for a time, is not."""
        frozen = {name for name, value in self.modules.named_parameters() if not value.requires_grad}
        frozen -= {"objective.lca.codebook"}
        return {
            "weights": {
                name: value for name, value in self.modules.state_dict().items() if name not in frozen
            },
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.modules.load_state_dict({**self.modules.state_dict(), **state["weights"]})
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.average.load_state_dict(state.get("average", {}))

    def begin_epoch(self, epoch: int, done: int) -> None:
        """Make everything ready for an epoch, counted from 0, of which ``done`` steps are done."""
        self.objective.begin_epoch(epoch)
        self.modules.diagnostics.begin_epoch(epoch)
        if done == 0 and begins_warm(self.objective, epoch):
            self.sampler.seek(epoch)
            whole = TrainingLoader(*self.training, self.sampler)
            warm_start(self.objective, self.model, whole, self.fabric.device, self.recipe.seed)
            self.processes.same_start(self.objective)
        self.modules.train()
        keep_frozen_norms(self.model)
        self.sampler.seek(epoch, done)

    def clipped_norm(self) -> Tensor:
        """Clip the whole gradient by the recipe's ``clip_norm``; its norm before."""
        limit = self.recipe.optimizer.clip_norm
        # An infinite limit only measures.
        norm = self.fabric.clip_gradients(
            self.wrapped,
            self.optimizer,
            max_norm=limit if limit is not None else float("inf"),
            error_if_nonfinite=False,
        )
        assert norm is not None
        return norm

    def validate(self) -> dict[str, float]:
        """Every metric of the validation split, the same on all processes."""
        return self.processes.agree(lambda: split_metrics(self.model, *self.validation))
