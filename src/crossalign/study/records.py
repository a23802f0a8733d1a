"""What one finished or failed run leaves: a small JSON file and the ranks of its test queries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from crossalign.errors import CrossAlignError
from crossalign.evaluation.results import RetrievalResult
from crossalign.files import read_json, write_json
from crossalign.provenance import without_places
from crossalign.recipe import Recipe
from crossalign.recipe_differences import differing_settings
from crossalign.settings import parse_settings
from crossalign.study.plan import PlannedRun
from crossalign.study.suite_data import SuiteData

__all__ = [
    "Origin",
    "RunOutcome",
    "RunRecord",
    "differing_from",
    "load_result",
    "portable_recipe",
    "ranks_path",
    "read_record",
    "read_records",
    "record_path",
    "replace_record",
    "write_record",
]

FORMAT = "crossalign-study-record"
FOLDER = "records"
FILE = re.compile(r"(?P<variant>.+)-seed(?P<seed>\d+)\.json")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Origin(_Part):
    """Where the run was made, by which code and when it ended."""

    version: str
    commit: str | None
    dirty: bool | None
    command: str
    date: str
    machine: dict[str, Any]


class RunOutcome(_Part):
    """What a finished run came to.

    Attributes:
        result: the test split as ``results.json`` of ``crossalign evaluate`` tells it, with the checksum of the ranks.
        word_to_region: ``accuracy``, ``chance`` and the other numbers of ``grounding.json``, where the collection
            knows what its words mean.
        validation_rsum, best_epoch: of the model kept.
        validation: every validation with its ``epoch`` and its metrics.
        epochs, steps, seconds, share_waiting_for_data: of the training.
        cpu_seconds: its processor time; None in records of versions that did not measure it.
        parameters, trained_parameters: how many numbers the model holds, and how many of them were trained.
        embedding_width: numbers of an embedding.
        embedding_views: embeddings of an image.
        rsum_at_width: R@sum of the test split with embeddings cut to ``1/2``, ``1/4`` and ``1/8`` of their width; None
            where there are none, and in records from before.
        last: the last value of every number of the training log.
        by_epoch: for each of them its mean over the lines of every epoch; None where an epoch has no line with it.
    """

    result: dict[str, Any]
    word_to_region: dict[str, float] | None
    validation_rsum: float
    best_epoch: int
    validation: list[dict[str, float]]
    epochs: int
    steps: int
    seconds: float
    cpu_seconds: float | None = None
    share_waiting_for_data: float
    parameters: int
    trained_parameters: int
    embedding_width: int
    embedding_views: int
    last: dict[str, float]
    by_epoch: dict[str, list[float | None]]
    rsum_at_width: dict[str, float] | None = None
    suite: dict[str, float] | None = None
    suite_data: dict[str, SuiteData] | None = None

    def number(self, name: str) -> float | None:
        """A number that a study may ask for: of ``last`` or ``suite``, a width, R@sum at a share of it, or the
        ``largest_fall`` of R@sum on validation from one epoch to the next.
        """
        if name == "largest_fall":
            rsums = [event["rsum"] for event in self.validation if "rsum" in event]
            falls = [before - after for before, after in pairwise(rsums)]
            return max(0.0, *falls) if falls else None
        widths = {f"rsum_at_{share}": value for share, value in (self.rsum_at_width or {}).items()}
        known = {**self.last, **(self.suite or {}), **widths, "embedding_width": float(self.embedding_width)}
        return known.get(name)


class RunRecord(_Part):
    """One run of a study; either its ``outcome`` or the ``reason`` why it failed.

    ``taken_from`` names the study and the run that made it, where that was another one with the same recipe.
    ``suite_origin`` says who measured its suite, where that was done later.
    """

    format: Literal["crossalign-study-record"]
    format_version: Literal[1]
    study: str
    variant: str
    seed: int
    status: Literal["done", "failed"]
    reason: str | None
    recipe: dict[str, Any]
    outcome: RunOutcome | None
    origin: Origin
    taken_from: str | None = None
    suite_origin: Origin | None = None


def record_path(folder: Path, run: PlannedRun) -> Path:
    """Where the record of a run stands below the study's folder; its presence means the run has ended."""
    return folder / FOLDER / f"{run.key}.json"


def ranks_path(folder: Path, run: PlannedRun) -> Path:
    """Where the ranks of a run's test queries stand."""
    return folder / FOLDER / f"{run.key}.ranks.npz"


def write_record(
    folder: Path, run: PlannedRun, study: str, origin: Origin, outcome: RunOutcome | str
) -> RunRecord:
    """Write the record of a run that has ended, whole or not at all; ``outcome`` is the reason where it failed."""
    failed = isinstance(outcome, str)
    record = RunRecord(
        format="crossalign-study-record",
        format_version=1,
        study=study,
        variant=run.variant,
        seed=run.seed,
        status="failed" if failed else "done",
        reason=outcome if isinstance(outcome, str) else None,
        recipe=portable_recipe(run.recipe),
        outcome=None if isinstance(outcome, str) else outcome,
        origin=origin,
    )
    replace_record(folder, run, record)
    return record


def replace_record(folder: Path, run: PlannedRun, record: RunRecord) -> None:
    """Put a record into its place, whole or not at all."""
    write_json(record_path(folder, run), record.model_dump(mode="json"))


def read_record(path: Path) -> RunRecord:
    """Read a record.

    Raises:
        CrossAlignError: it is damaged, of another version, or bears another run's name.
    """
    remedy = "remove it to run again"
    content = read_json(path, remedy)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CrossAlignError(f"{path}: not the record of a study's run; {remedy}")
    record = parse_settings(RunRecord, content, f"{path}, a damaged record ({remedy})")
    if path.name != f"{record.variant}-seed{record.seed}.json" or (record.outcome is None) != (
        record.status == "failed"
    ):
        raise CrossAlignError(f"{path}: does not hold what its name says; {remedy}")
    return record


def read_records(folder: Path) -> dict[tuple[str, int], RunRecord]:
    """All records below a study's folder, by variant and seed.

    Raises:
        CrossAlignError: one of them is damaged.
    """
    paths = sorted((folder / FOLDER).glob("*.json"))
    records = (read_record(path) for path in paths if FILE.fullmatch(path.name))
    return {(record.variant, record.seed): record for record in records}


def load_result(folder: Path, run: PlannedRun, record: RunRecord) -> RetrievalResult:
    """The test result behind a record, with its ranks.

    Raises:
        CrossAlignError: the ranks are missing or not those of the record.
    """
    assert record.outcome is not None
    path = record_path(folder, run)
    return RetrievalResult.from_document(record.outcome.result, path, ranks_path(folder, run), source=run.key)


def portable_recipe(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON without places of one machine: an absolute path is told by its last part."""
    values: dict[str, Any] = without_places(recipe.model_dump(mode="json"))
    return values


def differing_from(asked: Recipe, record: RunRecord) -> tuple[str, ...]:
    """The settings in which a record's run differs from what is asked; name and places of files do not count."""
    values = parse_settings(Recipe, _by_name(portable_recipe(asked)), "recipe")
    return differing_settings(values, _by_name(record.recipe))


def _by_name(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Collection and stores by their names alone, the recipe without its own."""
    data = dict(recipe.get("data") or {})
    for key in ("collection", "text_features"):
        if isinstance(data.get(key), str):
            data[key] = Path(data[key]).name
    if isinstance(data.get("image_features"), list):
        data["image_features"] = [Path(name).name for name in data["image_features"]]
    if isinstance(data.get("teachers"), dict):
        data["teachers"] = {kind: Path(name).name for kind, name in data["teachers"].items()}
    return {**recipe, "name": "", "data": data}
