"""The whole of crossalign on synthetic scenes: draw, train, evaluate, index, search, report."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from crossalign.data.collection import Collection, Split
from crossalign.data.scenes import make_scenes
from crossalign.errors import CrossAlignError, missing_extra
from crossalign.evaluation import RetrievalResult, result_table
from crossalign.evaluation.grounding import GroundingResult
from crossalign.evaluation.of_model import evaluate_model
from crossalign.evaluation.report import Command, Curve, MetricTable, QueryResult, Report, Shown, write_report
from crossalign.evaluation.scene_words import ground_scenes
from crossalign.files import write_json
from crossalign.model import RetrievalModel
from crossalign.recipe import Recipe, load_recipe
from crossalign.search import Hit, SearchEngine, contact_sheet, save_contact_sheet, update_index
from crossalign.sources import Sources
from crossalign.training.metrics import read_metrics
from crossalign.training.trainer import TrainingResult, train

__all__ = ["DemoOutcome", "run_demo"]

MARKER = "demo.json"
OWN = ("scenes", "run", "photos", "index", "searches", "report.html", MARKER)
SHOWN = 5
TEXT_QUERIES, IMAGE_QUERIES = 6, 3


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
        for command in _next_commands(self.folder):
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
        CrossAlignError: the folder holds an earlier demo and ``overwrite`` is false, or something else.
    """
    folder = Path(folder)
    for package, extra in (("timm", "vision"), ("matplotlib", "report")):
        if find_spec(package) is None:
            raise missing_extra(package, extra, "the demo")
    overrides = [_setting("data.collection", folder / "scenes"), f"seed={seed}"]
    if epochs is not None:
        overrides.append(f"training.epochs={epochs}")
    settings = load_recipe(recipe, overrides)
    if settings.training.batch_size > scenes:
        settings = load_recipe(recipe, [*overrides, f"training.batch_size={scenes}"])
    _make_room(folder, overwrite)
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
        by_text = _text_queries(engine, collection, split, result, folder / "searches")
        by_image = _image_queries(engine, model, collection, split)
    clock.lap("search")
    outcome = DemoOutcome(folder, training, result, grounding, clock.seconds)
    _report(outcome, settings, by_text, by_image)
    clock.lap("report")
    write_json(folder / MARKER, outcome.to_json())
    return outcome


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


def _make_room(folder: Path, overwrite: bool) -> None:
    """An empty folder with the demo's mark in it; never delete anything that no demo has made."""
    if folder.exists() and not folder.is_dir():
        raise CrossAlignError(f"{folder}: not a folder; choose another place (--out)")
    entries = sorted(folder.iterdir()) if folder.exists() else []
    marked = (folder / MARKER).exists()
    foreign = [entry.name for entry in entries if not marked or not _of_a_demo(entry.name)]
    if foreign:
        raise CrossAlignError(
            f"{folder}: holds '{foreign[0]}', which no demo made; choose another folder (--out)"
        )
    if entries and not overwrite:
        raise CrossAlignError(
            f"{folder}: holds an earlier demo; replace it with --overwrite, or choose another (--out)"
        )
    # The mark goes last: what is left after an interruption is still a demo's.
    for entry in sorted(entries, key=lambda path: path.name == MARKER):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    write_json(folder / MARKER, {"finished": False})


def _of_a_demo(name: str) -> bool:
    """One of a demo's own names, or what a killed one left of it."""
    return name in OWN or (
        name.endswith((".tmp", ".old")) and any(name.startswith(f".{own}.") for own in OWN)
    )


def _shown(hits: list[Hit], right: str | None) -> list[Shown]:
    return [Shown(hit.path, right=Path(hit.file).stem == right, score=hit.score) for hit in hits]


def _text_queries(
    engine: SearchEngine, collection: Collection, split: Split, result: RetrievalResult, sheets: Path
) -> list[QueryResult]:
    """Captions of evenly spaced test scenes, so that hits and misses show as they are."""
    queries = []
    for number in range(TEXT_QUERIES):
        caption = number * len(split.texts) // TEXT_QUERIES
        text = split.texts[caption]
        image_id = split.image_ids[int(split.image_of_text[caption])]
        hits = engine.search_text(text, SHOWN)
        save_contact_sheet(contact_sheet(hits, text), sheets / f"query-{number + 1}.png")
        found = _shown(hits, image_id)
        missed = (
            None
            if any(shown.right for shown in found)
            else Shown(collection.image_path(image_id), right=True)
        )
        queries.append(QueryResult(Shown(text=text), found, int(result.table.t2i[caption]), missed))
    return queries


def _image_queries(
    engine: SearchEngine, model: RetrievalModel, collection: Collection, split: Split
) -> list[QueryResult]:
    """For a picture, the scenes nearest to it and the captions that fit it best."""
    captions = model.encode_texts(split.texts)
    queries = []
    for number in range(IMAGE_QUERIES):
        position = (2 * number + 1) * len(split.image_ids) // (2 * IMAGE_QUERIES)
        picture = collection.image_path(split.image_ids[position])
        scores = model.similarity(model.encode_images([picture]), captions)[0]
        best = scores.topk(SHOWN)
        told = [
            Shown(text=split.texts[caption], right=int(split.image_of_text[caption]) == position, score=score)
            for score, caption in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        queries.append(QueryResult(Shown(picture), told))
        queries.append(QueryResult(Shown(picture), _shown(engine.search_image(picture, SHOWN), None)))
    return queries


def _next_commands(folder: Path) -> list[Command]:
    def quote(text: Path | str) -> str:
        return shlex.quote(str(text))

    base = folder.with_name(f"{folder.name}-base")
    return [
        Command(
            "Search the scenes",
            f'crossalign search {quote(folder / "index")} "a large red crescent above a small purple triangle"',
        ),
        Command(
            "Index your own photos with this model",
            f"crossalign index {quote(folder / 'run')} ~/Pictures/some-folder",
        ),
        Command(
            "Train the same model without SelfAlign",
            f"crossalign train scenes-vse --set {quote(_setting('data.collection', folder / 'scenes'))} "
            f"--out {quote(base)}",
        ),
        Command("Evaluate it", f"crossalign evaluate {quote(base)}"),
        Command(
            "Compare the two",
            f"crossalign compare {quote(base / 'results/test')} {quote(folder / 'run/results/test')}",
        ),
    ]


def _setting(key: str, path: Path) -> str:
    """A change of a recipe; its value is read as YAML, so that a name like ``my #1`` needs quotes."""
    text = str(path)
    try:
        plain = yaml.safe_load(text) == text
    except yaml.YAMLError:
        plain = False
    return f"{key}={text if plain else json.dumps(text, ensure_ascii=False)}"


def _report(
    outcome: DemoOutcome, recipe: Recipe, by_text: list[QueryResult], by_image: list[QueryResult]
) -> None:
    events = read_metrics(outcome.folder / "run" / "metrics.jsonl")
    steps = [event for event in events if event["kind"] == "train"]
    validations = [event for event in events if event["kind"] == "validation"]
    terms = [name for name in (recipe.objective.base.kind, "lca", "cra") if steps and name in steps[0]]
    metrics = outcome.result.metrics
    write_report(
        outcome.folder / "report.html",
        Report(
            title="crossalign on synthetic scenes",
            subtitle=f"Recipe {recipe.name}, seed {recipe.seed}: trained, evaluated, indexed and searched.",
            headline=[
                ("R@sum", f"{metrics['rsum']:.1f}", "sum of six recalls, 600 at most"),
                (
                    "Word to region",
                    f"{outcome.grounding.accuracy:.1f} %",
                    f"chance {outcome.grounding.chance:.1f} %",
                ),
                (
                    "Training",
                    f"{outcome.training.seconds:.0f} s",
                    f"{outcome.training.steps} steps on this machine",
                ),
            ],
            metrics=MetricTable.of_runs({recipe.name: metrics}, {recipe.name: outcome.result.intervals}),
            curves=[
                Curve(
                    "Loss terms",
                    "step",
                    "loss",
                    {name: [(e["step"], e[name]) for e in steps] for name in terms},
                ),
                Curve(
                    "Validation", "epoch", "R@sum", {"R@sum": [(e["epoch"], e["rsum"]) for e in validations]}
                ),
            ],
            grounding={recipe.name: outcome.grounding},
            text_queries=by_text,
            image_queries=by_image,
            settings={"recipe.yaml": recipe.to_yaml()},
            commands=_next_commands(outcome.folder),
        ),
    )
