"""A study: which variants are trained over which seeds, and what each is compared with."""

from __future__ import annotations

import re
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, model_validator

from crossalign.errors import CrossAlignError
from crossalign.settings import Settings, parse_settings, read_yaml

__all__ = ["PlotSettings", "StudySettings", "Variant", "as_override", "available_studies", "load_study"]

NAME = re.compile(r"[A-Za-z0-9+][A-Za-z0-9+._-]*")


def as_override(key: str, value: Any) -> str:
    """A setting as ``--set`` takes it: ``section.key=value``, the value as YAML in one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)
    return f"{key}={text.removesuffix(chr(10)).removesuffix(chr(10) + '...')}"


def _overrides(value: Any) -> Any:
    """``{"a.b": c}`` as ``["a.b=c"]``; anything else as it is."""
    if not isinstance(value, dict):
        return value
    return [as_override(key, inner) for key, inner in value.items()]


Overrides = Annotated[tuple[str, ...], BeforeValidator(_overrides)]


def _names(value: object) -> object:
    """One name, or a list of them."""
    if isinstance(value, str):
        return (value,)
    if value is None or isinstance(value, list | tuple):
        return value
    raise ValueError("give the name of a variant, or a list of names")


Names = Annotated[tuple[str, ...] | None, BeforeValidator(_names)]


class Variant(Settings):
    """One row of the table: a recipe, changed."""

    recipe: str = Field(
        description="name of a recipe of the package, or path of a .yaml beside the study's file"
    )
    set: Overrides = Field(
        default=(), description="settings changed, as `section.key: value` or a list of `section.key=value`"
    )
    against: Names = Field(
        default=("",),
        description="the variant it is compared with, or a list of them, of which the first is in short tables and the "
        "plot; default: the study's baseline; null: none",
    )
    x: float | None = Field(default=None, description="its place along the axis of the plot")


class PlotSettings(Settings):
    """A plot along an axis instead of one row a variant."""

    x: str = Field(description="label of the axis")
    log: bool = Field(default=False, description="logarithmic axis")


class SuiteSettings(Settings):
    """What `crossalign evaluate-all` measures of every run besides: what the collection allows, and folders of data."""

    sts: str | None = Field(
        default=None, description="folder of sentence pairs (STS12-16, STS Benchmark, SICK-R)"
    )
    judgements: str | None = Field(default=None, description="folder of Flickr8k's human judgements")
    cxc: str | None = Field(default=None, description="folder of the CSVs of Crisscrossed Captions")
    classes: tuple[str, ...] = Field(default=(), description="folders or CSVs of photos with classes")


class StudySettings(Settings):
    """A table of training runs: variants times seeds."""

    name: str = Field(description="names the study and its folders")
    title: str = Field(description="what the table shows, in words")
    collection: str | None = Field(
        default=None, description="folder of the collection of all runs; default: the recipes' own"
    )
    set: Overrides = Field(default=(), description="settings changed in all runs, before the variant's own")
    baseline: str = Field(description="the variant that others are compared with")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(
        default=(0, 1, 2), min_length=1, description="unless --seeds is given"
    )
    variants: dict[str, Variant] = Field(min_length=1, description="by name, in the order of the table")
    plot: PlotSettings | None = Field(default=None, description="draw the variants along their `x`")
    numbers: tuple[str, ...] = Field(
        default=(),
        description="further numbers that the table and the plot show: of the training log, `largest_fall` of "
        "validation R@sum from one epoch to the next, `embedding_width`, "
        "`rsum_at_1/2`, `rsum_at_1/4`, `rsum_at_1/8` of the width, and those of `suite` such as `captions.r1`",
    )
    suite: SuiteSettings | None = Field(
        default=None,
        description="also measure what `crossalign evaluate-all` does, `{}` without further data; null: nothing of it",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> StudySettings:
        for name in (self.name, *self.variants):
            if not NAME.fullmatch(name):
                raise ValueError(f"'{name}' names files: use letters, digits and + . _ - only")
        if self.baseline not in self.variants:
            raise ValueError(
                f"baseline '{self.baseline}' is no variant; there are {', '.join(self.variants)}"
            )
        for name in self.variants:
            compared = self.against(name)
            for place, other in enumerate(compared):
                if other not in self.variants or other == name:
                    raise ValueError(f"variants.{name}.against: '{other}' is no other variant")
                if other in compared[:place]:
                    raise ValueError(f"variants.{name}.against: '{other}' stands there twice")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one stands there twice")
        if self.plot is not None and sum(variant.x is not None for variant in self.variants.values()) < 2:
            raise ValueError("plot: needs an x in two variants at least")
        if self.plot is not None and self.plot.log and any((v.x or 1.0) <= 0 for v in self.variants.values()):
            raise ValueError("plot.log: every x must be above 0")
        return self

    def against(self, variant: str) -> tuple[str, ...]:
        """The variants that ``variant`` is compared with."""
        chosen = self.variants[variant].against or ()
        if chosen == ("",):
            return () if variant == self.baseline else (self.baseline,)
        return chosen

    def to_dict(self) -> dict[str, Any]:
        """The whole study, defaults included, as JSON has it."""
        values = self.model_dump(mode="json")
        for name in self.variants:
            values["variants"][name]["against"] = list(self.against(name))
        return values

    def to_yaml(self) -> str:
        """The same as YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def available_studies() -> tuple[str, ...]:
    """Names of the studies that come with the package."""
    folder = resources.files("crossalign.studies")
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def load_study(source: str | Path) -> StudySettings:
    """Read a study by path or by the name of one that comes with the package.

    Recipes given by a path stand relative to the study's file.

    Raises:
        CrossAlignError: no such study, not YAML, an unknown key or a wrong value; the key is named.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise CrossAlignError(f"{path}: no such study file")
        file: Path | Traversable = path
    elif str(source) in available_studies():
        file = resources.files("crossalign.studies") / f"{source}.yaml"
    else:
        raise CrossAlignError(
            f"no study '{source}'; there are {', '.join(available_studies())}, or give a .yaml"
        )
    study = parse_settings(StudySettings, read_yaml(file, f"study {source}"), f"study {source}")
    placed = {
        name: variant.model_copy(update={"recipe": _place(variant.recipe, path.parent)})
        for name, variant in study.variants.items()
    }
    return study.model_copy(update={"variants": placed})


def _place(recipe: str, folder: Path) -> str:
    beside = folder / recipe
    return str(beside) if Path(recipe).suffix in (".yaml", ".yml") and beside.is_file() else recipe
