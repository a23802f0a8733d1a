"""Compare evaluated runs: is the difference more than chance?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossalign.errors import CrossAlignError

__all__ = ["command"]


def command(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Two results, as in RUN/results/test: the baseline, then the candidate (folders, or the "
            "results.json in them)."
        ),
    ] = None,
    baseline: Annotated[
        list[Path] | None,
        typer.Option("--baseline", "-b", help="A result of the baseline; repeat it for several seeds."),
    ] = None,
    candidate: Annotated[
        list[Path] | None,
        typer.Option("--candidate", "-c", help="A result of the candidate; repeat it for several seeds."),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals, between 0 and 1.")] = 0.95,
    resamples: Annotated[int, typer.Option(help="Random exchanges and bootstrap resamples.", min=1)] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the random resamples.", min=0)] = 0,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of a table.")
    ] = False,
) -> None:
    """Compare two evaluated models, or two groups of seeds, on the same split.

    Prints every recall's difference with its bootstrap interval and the p-value of a paired permutation
    test over images. Either name two results, or give every seed's result with --baseline and --candidate.
    """
    import json
    import sys

    from rich.console import Console

    from crossalign.evaluation.results import RetrievalResult
    from crossalign.evaluation.significance import compare_groups
    from crossalign.evaluation.tables import comparison_table

    groups = _groups(runs or [], baseline or [], candidate or [])
    baselines, candidates = ([RetrievalResult.load(path) for path in group] for group in groups)
    comparison = compare_groups(baselines, candidates, confidence=confidence, resamples=resamples, seed=seed)
    if json_output:
        typer.echo(json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False))
    else:
        # A file or a pipe has no width of its own: nothing need be folded there.
        width = None if sys.stdout.isatty() else 120
        Console(width=width).print(comparison_table(comparison))


def _groups(runs: list[Path], baseline: list[Path], candidate: list[Path]) -> tuple[list[Path], list[Path]]:
    """The results of the baseline and those of the candidate, however they were named."""
    if len(runs) == 2 and not baseline and not candidate:
        return runs[:1], runs[1:]
    if not runs and baseline and candidate:
        for option, group in (("--baseline", baseline), ("--candidate", candidate)):
            _check_once(option, group)
        return baseline, candidate
    raise CrossAlignError(
        "compare needs two results, or --baseline and --candidate at least once each,"
        f" found {len(runs)} results, {len(baseline)} baselines and {len(candidate)} candidates"
    )


def _check_once(option: str, group: list[Path]) -> None:
    """Refuse one result for two seeds: its spread would be none."""
    from crossalign.evaluation.result_folder import result_folder

    places = [result_folder(path).resolve() for path in group]
    twice = next((path for path, place in zip(group, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise CrossAlignError(f"{option} {twice}: given more than once; give the result of every seed once")
