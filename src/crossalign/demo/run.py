"""The whole of crossalign on synthetic scenes: draw, train, evaluate, index, search, report."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from crossalign.data.scenes import make_scenes
from crossalign.demo.commands import next_commands, path_setting
from crossalign.demo.folder import MARKER, make_room
from crossalign.demo.report import image_queries, text_queries, write_demo_report
from crossalign.errors import CrossAlignError, missing_extra
from crossalign.evaluation import RetrievalResult, result_table
from crossalign.evaluation.grounding import GroundingResult
from crossalign.evaluation.of_model import evaluate_model
from crossalign.evaluation.scene_words import ground_scenes
from crossalign.files import write_json
from crossalign.model import RetrievalModel
from crossalign.recipe import Recipe, load_recipe
from crossalign.search import SearchEngine, update_index
from crossalign.sources import Sources
from crossalign.training.assemble import check_pixels
from crossalign.training.trainer import TrainingResult, train

__all__ = ["DemoOutcome", "run_demo"]


@dataclass(frozen=True)
class DemoOutcome:
    """What a demo came to.

    Attributes:
        folder: where everything is.
        seconds: wall time by part, and in all.
    """

    folder: Path
    training: TrainingResult
    result: RetrievalResult
    grounding: GroundingResult
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "folder": str(self.folder),
            "training": asdict(self.training),
            "metrics": self.result.metrics,
            "grounding": self.grounding.to_json(),
            "seconds": self.seconds,
        }

    def print(self) -> None:
        """Show the figures and the next commands on standard output."""
        console = Console()
        console.print(result_table(self.result))
        console.print(
            f"word-to-region accuracy {self.grounding.accuracy:.1f} % (chance {self.grounding.chance:.1f} %), "
            f"{self.seconds['all']:.0f} s in all, {self.seconds['train']:.0f} s of them training",
            highlight=False,
        )
        console.print(f"\nreport: {self.folder / 'report.html'}\n\nnext:", highlight=False)
        for command in next_commands(self.folder):
            console.print(f"  {command.line}", highlight=False, soft_wrap=True)


def run_demo(
    folder: str | Path,
    *,
    scenes: int = 2000,
    epochs: int | None = None,
    recipe: str = "scenes-vse-selfalign",
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> DemoOutcome:
    """Do everything once; nothing is downloaded.

    Args:
        scenes: training scenes; a tenth of them are added for validation and a quarter for the test, at least 40.
            Fewer than the recipe's batch are one batch.
        epochs: instead of the recipe's.
        recipe: what to train.

    Raises:
        CrossAlignError: the folder holds an earlier demo and ``overwrite`` is false, or something else; or the
            recipe does not train from pixels.
    """
    folder = Path(folder)
    for package, extra in (("timm", "vision"), ("matplotlib", "report")):
        if find_spec(package) is None:
            raise missing_extra(package, extra, "the demo")
    overrides = [path_setting("data.collection", folder / "scenes"), f"seed={seed}"]
    if epochs is not None:
        overrides.append(f"training.epochs={epochs}")
    settings = load_recipe(recipe, overrides)
    if settings.training.batch_size > scenes:
        settings = load_recipe(recipe, [*overrides, f"training.batch_size={scenes}"])
    _check_recipe(settings)
    make_room(folder, overwrite)
    clock = _Clock()
    held_out = max(scenes // 10, 40)
    collection = make_scenes(
        folder / "scenes", train=scenes, val=held_out, test=max(scenes // 4, 40), seed=seed, progress=progress
    )
    clock.lap("draw")
    training = train(settings, folder / "run", progress=progress)
    clock.lap("train")

    model = RetrievalModel.from_pretrained(folder / "run")
    sources = Sources.open(collection.folder)
    result = evaluate_model(model, sources, "test", command="crossalign demo", progress=progress)
    result.save(folder / "run" / "results" / "test")
    grounding = ground_scenes(model, sources, "test")
    write_json(folder / "run" / "results" / "test" / "grounding.json", grounding.to_json())
    clock.lap("evaluate")

    split = collection.split("test")
    photos = folder / "photos"
    photos.mkdir()
    for image_id in split.image_ids:
        shutil.copyfile(collection.image_path(image_id), photos / collection.image_path(image_id).name)
    update_index(folder / "run", photos, folder / "index", progress=progress)
    clock.lap("index")

    with SearchEngine.open(folder / "index", model) as engine:
        by_text = text_queries(engine, collection, split, result, folder / "searches")
        by_image = image_queries(engine, model, collection, split)
    clock.lap("search")
    outcome = DemoOutcome(folder, training, result, grounding, clock.seconds)
    write_demo_report(folder, settings, training, result, grounding, by_text, by_image)
    clock.lap("report")
    write_json(folder / MARKER, outcome.to_json())
    return outcome


def _check_recipe(recipe: Recipe) -> None:
    """Fresh scenes have no feature stores: told before an earlier demo is removed."""
    if recipe.data.image_features or recipe.data.text_features:
        setting = "image_features" if recipe.data.image_features else "text_features"
        raise CrossAlignError(
            f"recipe {recipe.name}: data.{setting} names stored features, and a demo's scenes have none; "
            "choose a recipe that trains from pixels, such as scenes-vse (--recipe)"
        )
    check_pixels(recipe.model.image)


class _Clock:
    """Wall time of each part."""

    def __init__(self) -> None:
        self.start = self.mark = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self.mark, 1)
        self.seconds["all"] = round(now - self.start, 1)
        self.mark = now
