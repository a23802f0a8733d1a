"""Runs what a study still lacks: one run after the other, beside other runners, over days."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crossalign.data.collection import Collection
from crossalign.errors import CrossAlignError
from crossalign.files import write_text
from crossalign.provenance import now
from crossalign.recipe_differences import differing_from_file
from crossalign.study.claim import claimed
from crossalign.study.later import measure_later, told_lack, why_not_measurable
from crossalign.study.outcome import SPLIT, measure_run, origin
from crossalign.study.plan import PlannedRun
from crossalign.study.records import (
    RunOutcome,
    RunRecord,
    differing_from,
    ranks_path,
    read_record,
    record_path,
    write_record,
)
from crossalign.study.settings import SuiteSettings
from crossalign.study.suite_data import SuiteData, named_data
from crossalign.training.run_folder import RECIPE
from crossalign.training.trainer import train

__all__ = ["StudyRunner", "Tally"]


@dataclass
class Tally:
    """How the runs asked for stand after one pass, by their keys.

    Attributes:
        done: trained and measured now.
        kept: had a record already.
        measured: had a record that lacked what is asked for of the suite, and has it now.
        lacking: what a record still lacks of the suite, and why.
        failed: why a run failed, now or earlier.
        differing: why a run was left alone: what is there was made with other settings.
        busy: in the hands of another runner.
    """

    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)
    lacking: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    differing: dict[str, str] = field(default_factory=dict)
    busy: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyRunner:
    """Trains, measures and records the runs of a study.

    Attributes:
        study: the study's name.
        out: folder of the records.
        runs: folder of the run folders, heavy and needed only until a run has its record.
        suite: what is measured of a model besides retrieval.
        device: where a model is evaluated.
        retry: run again what had failed before this runner began.
        tell: takes a line about every run.
        after_each: called after every new record.
        progress: show the bar of training.
    """

    study: str
    out: Path
    runs: Path
    suite: SuiteSettings | None = None
    device: str = "cpu"
    retry: bool = False
    tell: Callable[[str], None] = lambda _: None
    after_each: Callable[[], object] = lambda: None
    progress: bool = True
    began: str = field(default_factory=now)

    def run(self, planned: Sequence[PlannedRun]) -> Tally:
        """One pass over the runs: what has a record or is in other hands is passed by, a failure stops no other.

        A record that lacks numbers of the suite gets them, without training again, where the run's folder still holds
        the model.

        Raises:
            CrossAlignError: a damaged record, or data of the suite that is not there or damaged.
        """
        tally = Tally()
        # Read now: to learn after a training that a folder is not there would be late.
        data = None if self.suite is None else named_data(self.suite, SPLIT)
        for number, run in enumerate(planned, start=1):
            # Looked at before the claim, too, so that a finished study is only read.
            if self._settled(run, tally, data):
                continue
            with claimed(self.runs, run.key) as holder:
                if holder is not None:
                    tally.busy[run.key] = holder
                    self.tell(f"{run.key}: in work by {holder}")
                    continue
                if self._settled(run, tally, data):
                    continue
                if (finished := self._finished(run)) is not None and data is not None:
                    self._measure(run, finished, tally, data)
                    continue
                self.tell(f"{run.key}: run {number} of {len(planned)}")
                record = self._carry_out(run)
            if record.outcome is None:
                tally.failed[run.key] = record.reason or ""
                self.tell(f"{run.key}: failed: {record.reason}")
            else:
                tally.done.append(run.key)
                metrics = record.outcome.result["metrics"]
                self.tell(f"{run.key}: R@sum {metrics['rsum']:.1f}, {record.outcome.seconds / 60:.1f} min")
            self.after_each()
        return tally

    def _finished(self, run: PlannedRun) -> RunRecord | None:
        """The record of a run that has ended well."""
        path = record_path(self.out, run)
        record = read_record(path) if path.exists() else None
        return record if record is not None and record.status == "done" else None

    def _settled(self, run: PlannedRun, tally: Tally, data: Mapping[str, SuiteData] | None) -> bool:
        """Whether there is nothing to do for a run; the tally then says why."""
        path = record_path(self.out, run)
        if path.exists():
            record = read_record(path)
            differing = differing_from(run.recipe, record)
            if record.status == "done" and not differing:
                lack = "" if data is None else told_lack(record, data)
                reason = why_not_measurable(self.runs / run.key, run, record) if lack else ""
                if lack and not reason:
                    return False
                tally.kept.append(run.key)
                if lack:
                    self._lacks(run, tally, lack, reason)
                return True
            if record.status == "done":
                self._leave(run, tally, path, differing, "--out")
                return True
            # A failure with other settings says nothing about these.
            if not differing and not (self.retry and record.origin.date < self.began):
                tally.failed[run.key] = record.reason or ""
                return True
        unfinished = self.runs / run.key / RECIPE
        if unfinished.exists() and (differing := differing_from_file(run.recipe, unfinished)):
            self._leave(run, tally, unfinished.parent, differing, "--runs")
            return True
        return False

    def _leave(
        self, run: PlannedRun, tally: Tally, place: Path, differing: Sequence[str], option: str
    ) -> None:
        tally.differing[run.key] = (
            f"{place}: made with other settings ({', '.join(differing)}); repeat the --set of then, remove it, or "
            f"choose another {option}"
        )
        self.tell(tally.differing[run.key])

    def _measure(
        self, run: PlannedRun, record: RunRecord, tally: Tally, data: Mapping[str, SuiteData]
    ) -> None:
        """Give a record what it lacks of the suite; it stays as it is where that fails."""
        assert self.suite is not None
        lack = told_lack(record, data)
        self.tell(f"{run.key}: its record lacks {lack}: measuring it")
        try:
            measure_later(self.out, self.runs / run.key, run, record, self.suite, self.device)
        except Exception as error:
            tally.kept.append(run.key)
            self._lacks(run, tally, lack, self._reason(run, error))
        else:
            tally.measured.append(run.key)
            self.after_each()

    def _lacks(self, run: PlannedRun, tally: Tally, lack: str, reason: str) -> None:
        tally.lacking[run.key] = f"its record lacks {lack}, and {reason}"
        self.tell(f"{run.key}: {tally.lacking[run.key]}")

    def _reason(self, run: PlannedRun, error: Exception) -> str:
        """One line about an error; what nobody has foreseen also leaves its traceback beside the run."""
        if isinstance(error, CrossAlignError):
            return str(error)
        notes = self.runs / f"{run.key}-error.txt"
        write_text(notes, "".join(traceback.format_exception(error)))
        message = " ".join(str(error).split()) or "no message"
        return f"unexpected {type(error).__name__}: {message} (traceback: {notes.name} beside the run)"

    def _carry_out(self, run: PlannedRun) -> RunRecord:
        folder = self.runs / run.key
        outcome: RunOutcome | str
        try:
            # Asked now: to learn after the training that there is nothing to measure on would be late.
            Collection.load(run.recipe.data.collection).split(SPLIT)
            training = train(run.recipe, folder, resume="auto", progress=self.progress)
            outcome = measure_run(
                folder, training, ranks_path(self.out, run), suite=self.suite, device=self.device
            )
        except Exception as error:
            outcome = self._reason(run, error)
        return write_record(self.out, run, self.study, origin(), outcome)
