"""``crossalign evaluate``."""

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
    Scaling,
    TextFeatures,
    asked_hubness,
    asked_top,
    device_name,
    name_of_hubness,
)
from crossalign.reranking import RERANK_TOP


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="A training run, a model folder, an ensemble, or a model of the Hugging Face Hub."
        ),
    ],
    collection: EvaluatedCollection = None,
    split: EvaluatedSplit = "test",
    folds: Annotated[
        int, typer.Option(min=1, help="1: the whole split is one gallery; 5: mean of five folds (COCO 1K).")
    ] = 1,
    image_features: ImageFeatures = None,
    text_features: TextFeatures = None,
    raw: Raw = False,
    width: Annotated[
        int | None,
        typer.Option(help="Cut every embedding to N numbers, as an index made with the same --width does."),
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(
            help="A run or model with a scorer, such as SCAN: it puts the best of each query into its own order."
        ),
    ] = None,
    rerank_top: Annotated[
        int | None,
        typer.Option(min=1, help=f"How many of each query's best --rerank looks at; default: {RERANK_TOP}."),
    ] = None,
    ensemble_with: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="Another run or model: the mean of both models' scores is measured. Repeatable.",
        ),
    ] = None,
    scale: Scaling = None,
    hubness: Annotated[
        str | None,
        typer.Option(
            help="Correct the scores for hubs by other queries: dual-softmax or inverted-softmax with all queries of "
            "the split at once (transductive), query-bank or dynamic-query-bank with those of another split."
        ),
    ] = None,
    hubness_temperature: Annotated[
        float | None, typer.Option(help="Temperature of the correction's softmax; default: 0.1.")
    ] = None,
    hubness_bank: Annotated[
        str | None,
        typer.Option(help="Split whose captions and images are the bank of queries; default: train."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of the result; default: RUN/results/SPLIT, and what differs from the run's own follows in the "
            "name: SPLIT-5-folds, SPLIT-on-COLLECTION, SPLIT-raw, SPLIT-with-STORES, SPLIT-width-N, SPLIT-50-by-MODEL, "
            "SPLIT-mean-with-MODEL, SPLIT-dual-softmax, SPLIT-query-bank-of-BANK.",
        ),
    ] = None,
    device: Device = "auto",
    as_json: ResultAsJson = False,
) -> None:
    """Measure retrieval in both directions: R@1/5/10, median and mean rank, R@sum, with bootstrap intervals.

    On synthetic scenes, also how often a word's vector lies closest to a region that shows what the word means.
    """
    import json
    import shlex
    import sys

    from rich.console import Console

    from crossalign.ensemble import is_ensemble, read_ensemble
    from crossalign.evaluation.of_run import evaluate_run
    from crossalign.evaluation.result_folder import check_result_place
    from crossalign.evaluation.run_sources import place_of_result, run_recipe, told_inputs
    from crossalign.evaluation.tables import result_table

    top = asked_top(rerank, rerank_top)
    correction = asked_hubness(hubness, hubness_temperature, hubness_bank)
    if out is not None:
        check_result_place(out)
    measured = evaluate_run(
        model,
        collection=collection,
        split=split,
        folds=folds,
        image_features=image_features or (),
        text_features=text_features,
        raw=raw,
        width=width,
        rerank=rerank,
        rerank_top=top,
        ensemble_with=ensemble_with or (),
        scale=None if scale is None else scale.value,
        hubness=correction,
        device=device_name(device),
        command=shlex.join(["crossalign", *sys.argv[1:]]),
        progress=True,
    )
    # An ensemble's folder is like a run's, and its first model tells what is ordinary.
    recipe = run_recipe(read_ensemble(model).members[0] if is_ensemble(model) else model)
    if out is None and recipe is not None:
        out = place_of_result(
            Path(model),
            recipe,
            measured.sources,
            split,
            folds,
            width,
            rerank,
            top,
            ensemble_with or (),
            None if scale is None else scale.value,
            name_of_hubness(correction),
        )
    if collection is not None:
        for told in dict.fromkeys(map(told_inputs, (measured.sources, *measured.more_sources))):
            typer.echo(told, err=True)
    if out is not None:
        measured.save(out)
    if measured.no_grounding:
        typer.echo(f"no word-to-region accuracy: {measured.no_grounding}", err=True)
    if as_json:
        typer.echo(json.dumps(measured.to_dict()))
        return
    Console().print(result_table(measured.result))
    words = measured.grounding
    if words is not None:
        typer.echo(f"word-to-region accuracy {words.accuracy:.1f} % (chance {words.chance:.1f} %)")
    if out is not None:
        typer.echo(f"saved: {out}")
