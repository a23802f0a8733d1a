"""``crossalign study``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossalign.cli.run_options import device_name, listed

if TYPE_CHECKING:
    from crossalign.study.settings import SuiteSettings


def command(
    study: Annotated[
        str, typer.Argument(help="A study that comes with the package (see --list), or the path of a .yaml.")
    ] = "",
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of every variant, such as 0,1,2; default: the study's own.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Run this variant and no other. Repeatable.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change a setting of all runs: section.key=value, read as YAML. Repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of records, table and plot; default: studies/STUDY."),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Folder of the run folders; default: runs/studies/STUDY.")
    ] = None,
    take_from: Annotated[
        list[Path] | None,
        typer.Option(
            "--take-from",
            help="Folder of another study: its records of runs with the same recipe are taken over. Repeatable.",
        ),
    ] = None,
    sts: Annotated[
        Path | None, typer.Option(help="Folder of sentence pairs: also measure sentence similarity.")
    ] = None,
    judgements: Annotated[
        Path | None, typer.Option(help="Folder of Flickr8k's human judgements: also measure the correlation.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Train nothing: write table and plot from the records.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run again what has failed.")] = False,
    device: Annotated[
        str, typer.Option(help="Where models are evaluated: auto, cpu, cuda, cuda:1 ...")
    ] = "auto",
    show: Annotated[
        bool, typer.Option("--show", help="Print the whole study, defaults included, and stop.")
    ] = False,
    list_studies: Annotated[
        bool, typer.Option("--list", help="Print what studies there are and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print study.json on standard output.")] = False,
) -> None:
    """Train and evaluate a table of variants over seeds.

    What has a record is skipped, what was interrupted goes on, and what fails is told while the others go on. Where a
    record lacks what --sts, --judgements or the study's suite now ask for, the run's model is measured again if its
    folder is still there, and nothing is trained. Several of these commands may work on one study side by side. After
    every run the table, the plot and the JSON in the study's folder are written anew.
    """
    from crossalign.study.settings import available_studies, load_study

    if list_studies:
        typer.echo(listed({name: load_study(name).title for name in available_studies()}))
        return
    if not study:
        raise typer.BadParameter(
            f"give a study: {', '.join(available_studies())}, or a .yaml", param_hint="STUDY"
        )
    settings = load_study(study)
    if show:
        typer.echo(settings.to_yaml(), nl=False)
        return

    import json

    from rich.console import Console

    from crossalign.errors import CrossAlignError
    from crossalign.study.later import told_lacks
    from crossalign.study.plan import chosen_variants, plan_runs
    from crossalign.study.report import write_report
    from crossalign.study.runner import StudyRunner, Tally
    from crossalign.study.table import notes, study_table
    from crossalign.study.take_over import take_over

    asked = _seeds(seeds) if seeds is not None else settings.seeds
    overrides = override or []
    chosen = chosen_variants(settings, only or [])
    planned = [run for run in plan_runs(settings, asked, overrides) if run.variant in chosen]
    folder = out or Path("studies") / settings.name

    def tell(line: str) -> None:
        typer.echo(line, err=True)

    def write(told: bool = False) -> dict[str, object]:
        return write_report(settings, folder, asked, overrides, tell=tell if told else lambda _: None)

    run_folders = runs or Path("runs") / "studies" / settings.name
    taken = take_over(planned, settings.name, folder, take_from or [], runs=run_folders, tell=tell)
    for key, source in taken.items():
        tell(f"{key}: taken from {source}")
    suite = _suite(settings.suite, sts, judgements)
    tally = Tally()
    if report:
        for line in () if suite is None else told_lacks(folder, run_folders, planned, suite):
            tell(line)
    else:
        runner = StudyRunner(
            settings.name,
            folder,
            run_folders,
            suite=suite,
            device=device_name(device),
            retry=retry,
            tell=tell,
            after_each=write,
        )
        tally = runner.run(planned)
    summary = write(told=True)
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        console, table = Console(), study_table(summary)
        if not console.is_terminal:
            # A file has no width to keep to, but its reader has.
            console.width = 200
        unwrapped = console.measure(table, options=console.options.update(width=10_000)).maximum
        fits = unwrapped <= console.width
        console.print(table if fits else study_table(summary, brief=True))
        more = "" if fits else ", which has all columns"
        typer.echo("\n".join([*notes(summary), f"saved: {folder / 'table.md'}{more}"]))
    problems = {**tally.failed, **tally.differing}
    if problems:
        key, reason = next(iter(problems.items()))
        count = f"{len(problems)} of {len(planned)} runs have no result"
        remedy = "; mend it and add --retry" if tally.failed else ""
        raise CrossAlignError(f"{count}, the first is {key}: {reason}{remedy}")
    if tally.lacking:
        key, reason = next(iter(tally.lacking.items()))
        raise CrossAlignError(
            f"{len(tally.lacking)} of {len(planned)} runs lack numbers of the suite, the first is {key}: {reason}"
        )


def _suite(suite: SuiteSettings | None, sts: Path | None, judgements: Path | None) -> SuiteSettings | None:
    """The study's own with the folders of the command line."""
    from crossalign.study.settings import SuiteSettings

    named = {
        name: str(place) for name, place in (("sts", sts), ("judgements", judgements)) if place is not None
    }
    if suite is None and not named:
        return None
    return (suite or SuiteSettings()).model_copy(update=named)


def _seeds(text: str) -> tuple[int, ...]:
    """``0,1,2`` as numbers."""
    parts = [part.strip() for part in text.split(",")]
    # With 20 digits and more it is above any seed, and Python refuses to read some thousands.
    seeds = [int(part) for part in parts if part.isdecimal() and len(part) < 20]
    if len(set(seeds)) < len(parts) or max(seeds) >= 2**63:
        raise typer.BadParameter(
            f"'{text}' is not a list of different seeds such as 0,1,2", param_hint="--seeds"
        )
    return tuple(seeds)
