"""``crossalign evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[
        str, typer.Argument(help="A training run, a model folder, or a model of the Hugging Face Hub.")
    ],
    collection: Annotated[
        Path | None, typer.Option(help="Folder of the collection; default: the run's own.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    folds: Annotated[
        int, typer.Option(min=1, help="1: the whole split is one gallery; 5: mean of five folds (COCO 1K).")
    ] = 1,
    image_features: Annotated[
        list[str] | None,
        typer.Option(
            help="FeatureStore instead of photos, by path or name; default: the run's own. Repeatable."
        ),
    ] = None,
    text_features: Annotated[
        str | None, typer.Option(help="FeatureStore instead of captions; default: the run's own.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Encode the photos and captions themselves, no stores.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the result; default: RUN/results/SPLIT.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1 ...")] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
) -> None:
    """Measure retrieval in both directions: R@1/5/10, median and mean rank, R@sum, with bootstrap intervals.

    On synthetic scenes, also how often a word's vector lies closest to a region that shows what the word means.
    """
    import json
    import shlex
    import sys

    from rich.console import Console

    from crossalign.cli.extract_parts import device_name
    from crossalign.errors import CrossAlignError
    from crossalign.evaluation.of_model import evaluate_model
    from crossalign.evaluation.scene_words import ground_scenes, has_scene_truth
    from crossalign.evaluation.tables import result_table
    from crossalign.files import write_json
    from crossalign.model import RetrievalModel
    from crossalign.recipe import load_recipe
    from crossalign.sources import Sources

    if out is not None and out.exists() and not out.is_dir():
        raise CrossAlignError(f"{out}: not a folder; choose another place (--out)")
    loaded = RetrievalModel.from_pretrained(model, device_name(device))
    run = Path(model)
    recipe = load_recipe(run / "recipe.yaml") if (run / "recipe.yaml").is_file() else None
    place = collection or (Path(recipe.data.collection) if recipe is not None else None)
    if place is None:
        raise CrossAlignError(f"{model}: not a training run, so it names no collection; give --collection")
    stores, text_store = tuple(image_features or ()), text_features
    if recipe is not None and collection is None and not raw:
        stores, text_store = stores or recipe.data.image_features, text_store or recipe.data.text_features
    sources = Sources.open(place, stores, text_store)
    result = evaluate_model(
        loaded,
        sources,
        split,
        folds=folds,
        command=shlex.join(["crossalign", *sys.argv[1:]]),
        progress=True,
    )
    if out is None and recipe is not None:
        out = (
            run
            / "results"
            / "-".join([split, *([f"{folds}-folds"] if folds > 1 else []), *(["raw"] if raw else [])])
        )
    if out is not None:
        result.save(out, overwrite=True)
    grounding = ground_scenes(loaded, sources, split) if has_scene_truth(sources) else None
    if grounding is not None and out is not None:
        write_json(out / "grounding.json", grounding.to_json())
    if as_json:
        extra = {} if grounding is None else {"grounding": grounding.to_json()}
        typer.echo(json.dumps(result.to_dict() | extra))
        return
    Console().print(result_table(result))
    if grounding is not None:
        typer.echo(f"word-to-region accuracy {grounding.accuracy:.1f} % (chance {grounding.chance:.1f} %)")
    if out is not None:
        typer.echo(f"saved: {out}")
