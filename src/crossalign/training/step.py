"""One training step: the towers over the batch, at once or in parts, and the objective over all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from crossalign.data.batch import Batch, TextInputs
from crossalign.encoding import Encoding
from crossalign.evaluation.region_match import Rule
from crossalign.model import RetrievalModel
from crossalign.objective import Objective
from crossalign.processes import ALONE, Processes, each_by_itself
from crossalign.structures import concatenated, map_tensors, tensors_of
from crossalign.training.checkpoint import random_state, restore_random_state
from crossalign.training.diagnostics import Diagnostics
from crossalign.training.word_notes import with_regions

__all__ = ["TrainingModules", "TrainingStep"]


class TrainingModules(nn.Module):
    """Model and objective as one module, so that one wrapper gives both precision and placement.

    Args:
        rule: what makes a region one of an object, where the objective asks.
        processes: those whose batches are one.
    """

    def __init__(
        self, model: RetrievalModel, objective: Objective, rule: Rule, processes: Processes = ALONE
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.rule: Rule = rule
        self.processes = processes
        self.diagnostics = Diagnostics(objective)

    def encode(self, batch: Batch) -> tuple[Encoding, Encoding]:
        """What the towers make of images and texts."""
        return self.model.image_tower(batch.image), self.model.text_tower(batch.text)

    def forward(
        self, image: Encoding, text: Encoding, batch: Batch, inspect: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The loss terms and, with ``inspect``, the numbers beside them.

        Every process computes them of all processes' encodings: so each term is what one process would find.
        """
        gather, captions = self.processes.gather, batch.text
        notes, teachers = batch.notes, batch.teachers
        if notes is not None and notes.objects is not None:
            boxes = self.model.image_tower.region_boxes(batch.image)
            notes = with_regions(notes, boxes, batch.image_rows, self.rule, image.mask.shape[1])
        image_rows = batch.image_rows
        if self.processes.count > 1:
            images = gather(image_rows.new_tensor([len(image.mask)]))
            image_rows = gather(image_rows + images[: self.processes.rank].sum())
            image, text = map_tensors(gather, image), map_tensors(gather, text)
            notes, teachers = map_tensors(gather, notes), map_tensors(gather, teachers)
            if self.objective.captioning is not None:
                captions = map_tensors(gather, TextInputs(tokens=captions.tokens, mask=captions.mask))
        scores = self.model.scores(image, text, keep_graph=self.objective.dense)
        terms = self.objective(scores, image, text, image_rows, captions, notes, teachers)
        numbers: dict[str, Tensor] = {}
        if inspect:
            numbers = self.diagnostics(self.objective, terms, image, text, image_rows, notes)
        self.objective.end_step(image)
        return terms, numbers


class TrainingStep:
    """Forward and backward of one batch.

    With a ``mini_batch``, the towers see so many pairs at once, so that activations of no more of them are kept: they
    encode all parts without a graph, the objective finds the gradients of all encodings, and the towers encode the
    parts again to pass them on. Every term is that of the whole batch. GradCache (Gao et al., RepL4NLP 2021).

    Dropout draws the same in both passes. Batch normalisation inside a tower sees one part, not the batch, and nothing
    of other processes, which may have more parts.

    Args:
        modules: what ``fabric.setup`` was given, in its place.
        mini_batch: pairs that go through the towers at once; None: the whole batch.
    """

    def __init__(self, fabric: Fabric, modules: TrainingModules, mini_batch: int | None = None) -> None:
        self.fabric = fabric
        self.modules = modules
        self.mini_batch = mini_batch
        self._parts: list[_Part] = []

    def forward(self, batch: Batch, inspect: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The loss terms and, with ``inspect``, the numbers beside them."""
        self._parts = []
        batch = self.fabric.strategy.precision.convert_input(batch)
        alone = self.modules.processes.count == 1
        if self.mini_batch is None or (alone and self.mini_batch >= len(batch.image_rows)):
            image, text = self._encode(batch)
        else:
            image, text = self._encode_parts(batch, self.mini_batch)
        with self.fabric.autocast():
            terms, numbers = self.modules(image, text, batch, inspect)
        return terms, numbers

    def backward(self, loss: Tensor) -> None:
        """Gradients of every parameter, the same on all processes."""
        self.fabric.backward(loss)
        if self._parts:
            going_on = random_state()
            for part in self._parts:
                restore_random_state(part.random)
                with each_by_itself():
                    encoded = self._encode(part.batch)
                outputs = [output for encoding in encoded for output in tensors_of(encoding)]
                reached = [
                    (output, gradient)
                    for output, gradient in zip(outputs, part.gradients(), strict=True)
                    if output.requires_grad and gradient is not None
                ]
                torch.autograd.backward(
                    [output for output, _ in reached], [gradient for _, gradient in reached]
                )
            restore_random_state(going_on)
            self._parts = []
        self.modules.processes.average_gradients(self.modules.parameters())

    def _encode(self, batch: Batch) -> tuple[Encoding, Encoding]:
        with self.fabric.autocast():
            return self.modules.encode(batch)

    def _encode_parts(self, batch: Batch, size: int) -> tuple[Encoding, Encoding]:
        encodings: list[tuple[Encoding, Encoding]] = []
        with torch.no_grad(), each_by_itself(), _still_statistics(self.modules.model):
            for part in _parts_of(batch, size):
                encodings.append(self._encode(part.batch))
                self._parts.append(part)
        images, texts = zip(*encodings, strict=True)
        order = torch.cat([part.texts for part in self._parts]).argsort()
        image = map_tensors(_leaf, concatenated(images))
        text = map_tensors(_leaf, map_tensors(lambda rows: rows[order], concatenated(texts)))
        for part, encoded in zip(self._parts, encodings, strict=True):
            part.cached = ((image, part.images), (text, part.texts))
            part.shapes = [tensor.shape for encoding in encoded for tensor in tensors_of(encoding)]
        return image, text


@dataclass
class _Part:
    """Some images of a batch with all their texts.

    Attributes:
        images: rows of the images in the batch.
        texts: rows of the texts in the batch.
        random: state of the generators before the towers saw it.
        cached: what the objective saw of the whole batch, and where this part stands in it.
        shapes: of what the towers gave for this part, before it was padded.
    """

    batch: Batch
    images: Tensor
    texts: Tensor
    random: dict[str, Any]
    cached: tuple[tuple[Encoding, Tensor], ...] = ()
    shapes: list[torch.Size] | None = None

    def gradients(self) -> Iterator[Tensor | None]:
        """For each tensor that the towers give for this part, its gradient."""
        whole = [(tensor.grad, rows) for encoding, rows in self.cached for tensor in tensors_of(encoding)]
        assert self.shapes is not None
        for (gradient, rows), shape in zip(whole, self.shapes, strict=True):
            if gradient is None:
                yield None
            else:
                yield gradient[rows][tuple(slice(size) for size in shape)]


def _parts_of(batch: Batch, size: int) -> Iterator[_Part]:
    """Parts of about ``size`` texts; the images of a part are neighbours, and none stands in two."""
    images = len(batch.image_rows.unique())
    count = -(-len(batch.image_rows) // size)
    for index in range(count):
        start, stop = images * index // count, images * (index + 1) // count
        if start == stop:
            continue
        rows = torch.arange(start, stop, device=batch.image_rows.device)
        texts = ((batch.image_rows >= start) & (batch.image_rows < stop)).nonzero().squeeze(1)
        part = Batch(
            image=map_tensors(lambda rows_of: rows_of[start:stop], batch.image),  # noqa: B023
            image_rows=batch.image_rows[texts] - start,
            text=map_tensors(lambda rows_of: rows_of[texts], batch.text),  # noqa: B023
            image_ids=batch.image_ids[texts],
        )
        yield _Part(part, rows, texts, random_state())


def _leaf(tensor: Tensor) -> Tensor:
    """A tensor that keeps its gradient, where numbers have one."""
    return tensor.detach().requires_grad_(tensor.is_floating_point())


@contextmanager
def _still_statistics(model: nn.Module) -> Iterator[None]:
    """Batch normalisation as in training, but without a trace in its running statistics."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    tracked = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, value in zip(norms, tracked, strict=True):
            norm.track_running_stats = value
