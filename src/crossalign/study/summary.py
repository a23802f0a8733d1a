"""From records to what a study says: means and spreads over seeds, differences with their intervals and p-values."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossalign.errors import CrossAlignError
from crossalign.evaluation.results import RetrievalResult
from crossalign.evaluation.significance import compare_groups
from crossalign.provenance import without_places
from crossalign.study.outcome import SPLIT
from crossalign.study.plan import PlannedRun, plan_runs
from crossalign.study.records import RunOutcome, RunRecord, differing_from, load_result, read_records
from crossalign.study.settings import StudySettings
from crossalign.study.suite_data import kind_of
from crossalign.study.suite_notes import mixed_kinds, suite_sources

__all__ = ["FORMAT_VERSION", "summarize"]

FORMAT = "crossalign-study"
FORMAT_VERSION = 2
Group = Mapping[int, RunRecord]


def summarize(
    study: StudySettings,
    folder: Path,
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    *,
    resamples: int = 10_000,
) -> dict[str, Any]:
    """Everything that ``study.json`` holds, from the records below ``folder`` alone.

    A record counts where it was made with the settings that the study asks for, whichever its seed. A run without
    such a record is missing, and told so.

    Args:
        seeds: asked for, beside those found.
        resamples: of the bootstrap and of the permutation test.

    Raises:
        CrossAlignError: a damaged record, or a recipe that does not exist.
    """
    records = read_records(folder)
    known = {key: record for key, record in records.items() if key[0] in study.variants}
    seeds = sorted({*seeds, *(seed for _, seed in known)})
    done: dict[str, dict[int, RunRecord]] = {name: {} for name in study.variants}
    runs: dict[str, dict[str, Any]] = {
        name: {"done": [], "missing": [], "failed": {}, "differing": {}} for name in study.variants
    }
    results: dict[tuple[str, int], RetrievalResult | str] = {}
    for run in plan_runs(study, seeds, overrides):
        record, told = known.get((run.variant, run.seed)), runs[run.variant]
        differing = () if record is None else differing_from(run.recipe, record)
        if record is None or (record.outcome is None and differing):
            told["missing"].append(run.seed)
        elif record.outcome is None:
            told["failed"][str(run.seed)] = record.reason
        elif differing:
            told["differing"][str(run.seed)] = list(differing)
        else:
            told["done"].append(run.seed)
            done[run.variant][run.seed] = record
            results[run.variant, run.seed] = _result(folder, run, record)
    counted = [record for group in done.values() for record in group.values()]
    sources = suite_sources(counted)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "study": without_places(study.to_dict()),
        "split": SPLIT,
        "seeds": seeds,
        "overrides": without_places(overrides),
        "variants": {
            name: {
                "recipe": without_places(study.variants[name].recipe),
                "x": study.variants[name].x,
                "runs": runs[name],
                **_numbers(done[name], study.numbers),
                "against": [
                    _comparison(name, other, done, results, resamples) for other in study.against(name)
                ],
            }
            for name in study.variants
        },
        "unknown_records": sorted({variant for variant, _ in records} - set(study.variants)),
        **({"suite_data": sources} if sources else {}),
        "origin": _origin(counted),
    }


def _result(folder: Path, run: PlannedRun, record: RunRecord) -> RetrievalResult | str:
    """The result with its ranks, or why there is none: the table does without, the comparison does not."""
    try:
        return load_result(folder, run, record)
    except CrossAlignError as error:
        return str(error).replace(f"{folder}/", "")


def _numbers(group: Group, numbers: Sequence[str]) -> dict[str, Any]:
    """Means and spreads of one variant over its seeds."""
    outcomes = [record.outcome for _, record in sorted(group.items()) if record.outcome is not None]
    if not outcomes:
        return {}
    metrics = [outcome.result["metrics"] for outcome in outcomes]
    grounded = [outcome.word_to_region for outcome in outcomes if outcome.word_to_region is not None]
    processor = [outcome.cpu_seconds / 60 for outcome in outcomes if outcome.cpu_seconds is not None]
    first: RunOutcome = outcomes[0]
    return {
        "test": {name: _spread([values[name] for values in metrics]) for name in metrics[0]},
        "validation_rsum": _spread([outcome.validation_rsum for outcome in outcomes]),
        "best_epoch": _spread([outcome.best_epoch for outcome in outcomes]),
        "word_to_region": None
        if not grounded
        else {name: _spread([values[name] for values in grounded]) for name in ("accuracy", "chance")},
        "training_minutes": _spread([outcome.seconds / 60 for outcome in outcomes]),
        "training_cpu_minutes": _spread(processor) if len(processor) == len(outcomes) else None,
        "share_waiting_for_data": _spread([outcome.share_waiting_for_data for outcome in outcomes]),
        "parameters": first.parameters,
        "trained_parameters": first.trained_parameters,
        "embedding_width": first.embedding_width,
        "embedding_views": first.embedding_views,
        "numbers": _further(group, numbers),
    }


def _further(group: Group, numbers: Sequence[str]) -> dict[str, Any]:
    """The further numbers that a study asks for, with the ``seeds`` that have one where others have not.

    Those of a suite that was measured on different data are left out: there is no mean of them.
    """
    mixed = mixed_kinds(list(group.values()))
    found: dict[str, Any] = {}
    for name in numbers:
        values = {
            seed: value
            for seed, record in sorted(group.items())
            if record.outcome is not None and (value := record.outcome.number(name)) is not None
        }
        if values and kind_of(name) not in mixed:
            some = {"seeds": list(values)} if len(values) < len(group) else {}
            found[name] = _spread(list(values.values())) | some
    return found


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation over seeds (none for a single one), and the values themselves."""
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "values": list(values),
    }


def _comparison(
    name: str,
    other: str,
    done: Mapping[str, Group],
    results: Mapping[tuple[str, int], RetrievalResult | str],
    resamples: int,
) -> dict[str, Any]:
    """The comparison of a variant with another, over the seeds that both have."""
    common = sorted(done[name].keys() & done[other].keys())
    told: dict[str, Any] = {"variant": other, "seeds": common}
    if not common:
        return told | {"reason": "no seed that both have yet"}
    pairs = [results[variant, seed] for variant in (other, name) for seed in common]
    broken = [pair for pair in pairs if isinstance(pair, str)]
    if broken:
        return told | {"reason": broken[0]}
    loaded = [pair for pair in pairs if not isinstance(pair, str)]
    baselines, candidates = loaded[: len(common)], loaded[len(common) :]
    try:
        comparison = compare_groups(baselines, candidates, resamples=resamples)
    except CrossAlignError as error:
        return told | {"reason": str(error)}
    return told | {
        "confidence": comparison.confidence,
        "resamples": comparison.resamples,
        "images": comparison.images,
        "captions": comparison.captions,
        "rsum_by_seed": [
            candidate.metrics["rsum"] - baseline.metrics["rsum"]
            for baseline, candidate in zip(baselines, candidates, strict=True)
        ],
        "differences": {
            entry.metric: {
                "difference": entry.difference,
                "low": entry.low,
                "high": entry.high,
                "p_value": entry.p_value,
            }
            for entry in comparison.differences
        },
    }


def _origin(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Where the runs were made: every machine, version and commit once, and from when to when."""
    origins = [record.origin for record in records]
    machines = [{key: value for key, value in origin.machine.items() if key != "load"} for origin in origins]
    return {
        "versions": sorted({origin.version for origin in origins}),
        "commits": sorted({origin.commit for origin in origins if origin.commit is not None}),
        "dirty": any(origin.dirty for origin in origins),
        "commands": sorted({origin.command for origin in origins}),
        "machines": [machine for place, machine in enumerate(machines) if machine not in machines[:place]],
        "first": min((origin.date for origin in origins), default=None),
        "last": max((origin.date for origin in origins), default=None),
    }
