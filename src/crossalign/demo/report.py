"""The page that a demo leaves: figures, curves, and what sample queries found."""

from __future__ import annotations

from pathlib import Path

from crossalign.data.collection import Collection, Split
from crossalign.demo.commands import next_commands
from crossalign.evaluation import RetrievalResult
from crossalign.evaluation.grounding import GroundingResult
from crossalign.evaluation.report import Curve, MetricTable, QueryResult, Report, Shown, write_report
from crossalign.model import RetrievalModel
from crossalign.recipe import Recipe
from crossalign.search import Hit, SearchEngine, contact_sheet, save_contact_sheet
from crossalign.training.metrics import read_metrics
from crossalign.training.trainer import TrainingResult

__all__ = ["image_queries", "text_queries", "write_demo_report"]

SHOWN = 5
TEXT_QUERIES, IMAGE_QUERIES = 6, 3


def _shown(hits: list[Hit], right: str | None) -> list[Shown]:
    return [Shown(hit.path, right=Path(hit.file).stem == right, score=hit.score) for hit in hits]


def text_queries(
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


def image_queries(
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


def write_demo_report(
    folder: Path,
    recipe: Recipe,
    training: TrainingResult,
    result: RetrievalResult,
    grounding: GroundingResult,
    by_text: list[QueryResult],
    by_image: list[QueryResult],
) -> None:
    """Write ``report.html``."""
    events = read_metrics(folder / "run" / "metrics.jsonl")
    steps = [event for event in events if event["kind"] == "train"]
    validations = [event for event in events if event["kind"] == "validation"]
    terms = [name for name in (recipe.objective.base.kind, "lca", "cra") if steps and name in steps[0]]
    metrics = result.metrics
    write_report(
        folder / "report.html",
        Report(
            title="crossalign on synthetic scenes",
            subtitle=f"Recipe {recipe.name}, seed {recipe.seed}: trained, evaluated, indexed and searched.",
            headline=[
                ("R@sum", f"{metrics['rsum']:.1f}", "sum of six recalls, 600 at most"),
                (
                    "Word to region",
                    f"{grounding.accuracy:.1f} %",
                    f"chance {grounding.chance:.1f} %",
                ),
                (
                    "Training",
                    f"{training.seconds:.0f} s",
                    f"{training.steps} steps on this machine",
                ),
            ],
            metrics=MetricTable.of_runs({recipe.name: metrics}, {recipe.name: result.intervals}),
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
            grounding={recipe.name: grounding},
            text_queries=by_text,
            image_queries=by_image,
            settings={"recipe.yaml": recipe.to_yaml()},
            commands=next_commands(folder),
        ),
    )
