"""What uni-modal teachers cost a step of training, with their stores on disk.

Steps are those of a recipe with soft labels: loading a batch, forward and backward pass, optimiser. "teachers" is what
they add on top of any loss: their vectors read from the stores, and the cosines of these. "terms" is everything that
soft labels add, heads, losses and their gradients included: the same step without them is measured in turn. The data
are made up, unless a collection with the stores of the recipe is given.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _common import add_timing_options, chosen_clock, interleaved, limits, machine, ratio, write_result
from crossalign.alignment import cosine_scores
from crossalign.data.batch import Batch
from crossalign.data.collection import CaptionRecord, Collection, ImageRecord
from crossalign.data.features import FeatureWriter
from crossalign.data.loading import PairSampler, TrainingLoader
from crossalign.data.teachers import TeacherSource
from crossalign.objective import Objective
from crossalign.recipe import Recipe, load_recipe
from crossalign.sources import Sources
from crossalign.training.assemble import assemble_model
from crossalign.training.schedule import build_optimizer

AT_MOST = 0.02
RECIPE = "flickr8k-vse-infinity-cusa"
# Made-up data have no states of a real text encoder.
WORDS = ["data.text_features=null", "model.text.encoder={kind: gru, word_dim: 300, pooling: gpo}"]


def made_up(folder: Path, images: int, width: int, recipe: Recipe) -> None:
    """A collection of ``images`` images with five captions each, random features and random teachers."""
    random = np.random.default_rng(0)
    words = [f"word{number}" for number in range(1000)]
    names = [f"i{number}" for number in range(images)]
    captions = [
        CaptionRecord(f"{name}#{k}", name, " ".join(random.choice(words, random.integers(6, 18))), split)
        for name in names
        for split, count in (("train", 5), ("val", 1))
        for k in range(0 if split == "train" else 5, count if split == "train" else 6)
    ]
    Collection.write(
        folder,
        name="made-up",
        image_root=None,
        images=[ImageRecord(name, "", 0, 0) for name in names],
        captions=captions,
        provenance={},
    )
    teachers = recipe.data.teachers
    assert teachers is not None
    stores: list[tuple[str, str, list[str], int, int]] = [
        (name, "image", names, 17, width) for name in recipe.data.image_features
    ]
    stores += [
        (teachers.images, "image", names, 1, 1280),
        (teachers.texts, "text", [caption.id for caption in captions], 1, 384),
    ]
    for store, kind, ids, units, dim in stores:
        with FeatureWriter(
            folder / "features" / store,
            ids=ids,
            dim=dim,
            units=units,
            dtype="float16",
            manifest={"kind": kind, "teacher": {}},
            boxes=False,
        ) as writer:
            writer.append([random.normal(size=(units, dim)).astype(np.float32) for _ in ids])
            writer.finish()


class Steps:
    """Training steps of a recipe, batch after batch, in epochs without end."""

    def __init__(self, recipe: Recipe) -> None:
        data = recipe.data
        sources = Sources.open(data.collection, data.image_features, data.text_features)
        self.model = assemble_model(recipe, sources).train()
        split, images, texts = sources.split(self.model, data.train)
        words = self.model.text_tower.tokenizer
        self.objective = Objective(recipe.objective, self.model.config, vocabulary=words.size if words else 0)
        self.teachers = None
        if recipe.objective.asks_teachers and data.teachers is not None:
            self.teachers = TeacherSource.open(
                sources.collection, split, data.teachers.images, data.teachers.texts
            )
        self.sampler = PairSampler(
            split,
            recipe.training.batch_size,
            recipe.seed,
            images_first=data.epoch == "images",
            captions_per_image=data.captions_per_image,
        )
        loader = TrainingLoader(split, images, texts, self.sampler, teachers=self.teachers)
        self.batches = self._endless(loader)
        self.items = itertools.cycle(list(self.sampler))
        self.optimizer = build_optimizer(self.model, self.objective, recipe.optimizer)

    def _endless(self, loader: TrainingLoader) -> Iterator[Batch]:
        while True:
            yield from loader

    def step(self) -> None:
        """One whole step."""
        batch = next(self.batches)
        image, text = self.model.image_tower(batch.image), self.model.text_tower(batch.text)
        scores = self.model.scores(image, text, keep_graph=self.objective.dense)
        terms = self.objective(scores, image, text, batch.image_rows, batch.text, batch.notes, batch.teachers)
        self.objective.total(terms).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def teach(self) -> None:
        """What the teachers alone cost a step."""
        images, captions, _ = (np.array(column) for column in zip(*next(self.items), strict=True))
        assert self.teachers is not None
        found = self.teachers(np.unique(images), captions)
        cosine_scores(found.image)
        cosine_scores(found.text)


def measure(recipe: Recipe, repeats: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Times and shares for one recipe."""
    plain = recipe.model_copy(
        update={
            "objective": recipe.objective.model_copy(update={"csa": None, "usa": None}),
            "model": recipe.model.model_copy(update={"uni_modal_head": None}),
        }
    )
    soft, bare = Steps(recipe), Steps(plain)
    times = interleaved(
        {"step": soft.step, "teachers": soft.teach, "without": bare.step}, repeats, clock=clock
    )
    return {
        "batch": recipe.training.batch_size,
        "teachers_to_step": ratio(times, "teachers", "step") | {"at_most": AT_MOST},
        "step_to_without": ratio(times, "step", "without"),
        "times": times,
    }


def main() -> None:
    """Measure, print a line a recipe, write ``results/teachers.json``; exit code 1 if the limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=25, help="measurements of each function")
    parser.add_argument(
        "--recipe", action="append", help=f"a recipe with teachers; default: {RECIPE}; repeatable"
    )
    parser.add_argument("--collection", help="with the recipe's stores; default: made up")
    add_timing_options(parser)
    arguments = parser.parse_args()
    clock = chosen_clock(arguments)
    before = machine().get("load")
    with tempfile.TemporaryDirectory() as place:
        changes = [f"data.collection={arguments.collection or place + '/made-up'}"]
        results = {}
        if arguments.small:
            changes += ["training.batch_size=8", "model.dim=16"]
        if arguments.collection is None:
            changes += WORDS
        for name in arguments.recipe or [RECIPE]:
            recipe = load_recipe(name, changes)
            if arguments.collection is None:
                count, width = (20, 8) if arguments.small else (600, 1024)
                made_up(Path(place) / "made-up", count, width, recipe)
            results[name] = measure(recipe, arguments.repeats, clock)
    for name, result in results.items():
        share, whole = result["teachers_to_step"], result["step_to_without"]
        print(f"{name}: teachers {100 * share['median']:.2f} % of a step", end="")
        print(f" ({100 * share['min']:.2f} to {100 * share['max']:.2f})", end="")
        print(f"; all that soft labels add {100 * (whole['median'] - 1):.1f} %")
    judged = limits(
        {name: (result["teachers_to_step"]["median"], AT_MOST) for name, result in results.items()}
    )
    # Of a tiny size the fixed costs are measured.
    if arguments.small:
        judged = {"met": None}
    name = "teachers" + ("-small" if arguments.small else "") + ("-busy" if arguments.busy else "")
    measured = "CPU time of one thread" if arguments.busy else "wall time"
    data = "made up" if arguments.collection is None else Path(arguments.collection).name
    payload = {"clock": measured, "data": data, "load_before": before, "limits": judged, "recipes": results}
    print(write_result(name, payload).name)
    raise SystemExit(1 if judged["met"] is False else 0)


if __name__ == "__main__":
    main()
