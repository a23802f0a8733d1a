"""``crossalign evaluate-all``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossalign.cli.run_options import (
    Device,
    EvaluatedCollection,
    EvaluatedSplit,
    ImageFeatures,
    Raw,
    ResultAsJson,
    TextFeatures,
    device_name,
)

__all__ = ["command"]


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="A training run, a model folder, a model of the Hugging Face Hub, or the folder of a sentence encoder "
            "(also 'package:NAME/FOLDER', a folder of an installed package)."
        ),
    ],
    collection: EvaluatedCollection = None,
    split: EvaluatedSplit = "test",
    folds: Annotated[
        int, typer.Option(min=1, help="Of image-text retrieval: 5 for the mean of five folds (COCO 1K).")
    ] = 1,
    image_features: ImageFeatures = None,
    text_features: TextFeatures = None,
    raw: Raw = False,
    sts: Annotated[
        Path | None, typer.Option(help="Folder of STS12 to STS16, STSBenchmark and SICK, or some of them.")
    ] = None,
    sentence_states: Annotated[
        Path | None,
        typer.Option(
            help="Folder where token states of the sentences of --sts are kept; the next model with the same frozen "
            "text encoder reads them instead of encoding."
        ),
    ] = None,
    cxc: Annotated[
        Path | None,
        typer.Option(help="Folder of the CSVs of Crisscrossed Captions; needs a collection of COCO."),
    ] = None,
    judgements: Annotated[
        Path | None,
        typer.Option(
            help="Folder of ExpertAnnotations.txt and CrowdFlowerAnnotations.txt; needs the collection of Flickr8k."
        ),
    ] = None,
    classes: Annotated[
        list[Path] | None,
        typer.Option(
            help="Photos with classes: a folder a class, CUB-200, Stanford Online Products, In-Shop, a list of paths "
            "(iNaturalist), or a CSV file with the columns file, label and, if wanted, role. Repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of report.html and suite.json; default: RUN/results/suite-SPLIT, with what differs from the "
            "run's own in the name as for 'evaluate'.",
        ),
    ] = None,
    device: Device = "auto",
    as_json: ResultAsJson = False,
) -> None:
    """Measure a model on everything its data allows, and write one report.

    Image-text retrieval, caption to caption, ECCV Caption and CxC's recalls on COCO's test split, sentence similarity,
    Crisscrossed Captions, human judgements, and photo to photo by class. What the data or the model does not allow is
    left out, with the reason.
    """
    import json
    import sys

    from rich.console import Console

    from crossalign.errors import CrossAlignError
    from crossalign.evaluation.run_sources import place_of_result, run_recipe, run_sources
    from crossalign.provenance import shown_command
    from crossalign.suite.further import FurtherData
    from crossalign.suite.report import suite_tables, told_training
    from crossalign.suite.result import check_suite_place
    from crossalign.suite.run import evaluate_suite
    from crossalign.suite.sentence_states import SentenceStates
    from crossalign.suite.subject import open_subject

    if sentence_states is not None and sts is None:
        raise CrossAlignError(f"--sentence-states {sentence_states}: no sentences to keep; give --sts too")
    stores = (image_features or (), text_features)
    recipe = run_recipe(model)
    if out is None and recipe is not None:
        sources = run_sources(model, collection, *stores, raw=raw)
        place = place_of_result(Path(model), recipe, sources, split, folds)
        out = place.with_name(f"suite-{place.name}")
    if out is not None:
        check_suite_place(out)
    # All that is named is read before a model is loaded.
    further = FurtherData.read(split, sts=sts, cxc=cxc, judgements=judgements, classes=classes or ())
    result = evaluate_suite(
        open_subject(model, collection, *stores, raw=raw, device=device_name(device)),
        further,
        split=split,
        folds=folds,
        sentence_states=None if sentence_states is None else SentenceStates(sentence_states),
        command=shown_command("crossalign", sys.argv[1:]),
        progress=True,
    )
    if out is not None:
        result.save(out)
    if as_json:
        typer.echo(json.dumps(result.to_dict()))
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    typer.echo(f"{result.name}: {told_training(result)}")
    for part, table in zip(result.measures, suite_tables(result), strict=True):
        console.print(table)
        typer.echo(part.note + "\n")
    for skipped in result.skipped:
        typer.echo(f"left out: {skipped.title}: {skipped.reason}")
    if out is not None:
        typer.echo(f"saved: {out}")
