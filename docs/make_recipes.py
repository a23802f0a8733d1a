"""Write docs/recipes.md from the typed settings of a recipe: python docs/make_recipes.py"""

from __future__ import annotations

import itertools
import json
import typing
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from crossalign.recipe import Recipe, available_recipes

PAGE = Path(__file__).with_name("recipes.md")

INTRODUCTION = """\
# Recipes

<!-- Made by docs/make_recipes.py from the settings' types; change it there or in the code. -->

A recipe is one YAML file with everything that a training run depends on. Keys are strict: an unknown key stops
with its name, and so does a value of the wrong type. Every setting that is not marked *required* has the default
below.

```bash
crossalign train --list                              # the recipes that come with the package
crossalign train flickr8k-vse --show                 # one of them, defaults included
crossalign train flickr8k-vse --set optimizer.learning_rate=5e-4 --set training.epochs=30 --seed 1
crossalign train my-photos.yaml                      # your own
```

`--set` takes `section.key=value`; the value is read as YAML, so lists are written `[a, b]` and nothing is `null`.
It changes only what it names: `--set 'model.image={region_dropout: 0.1}'` keeps the rest of `model.image`.

A recipe may begin with `extends:`, followed by the name of a recipe of the package or by a path relative to the
file. It is then merged over that one, key by key. As with `--set`, a part of another `kind` replaces the old one
whole, and `key: null` removes an optional part:

```yaml
extends: flickr8k-vse-selfalign
name: without-cra
objective:
  cra: null
```

The run folder keeps the recipe as it was used, defaults included, in `recipe.yaml`. That file is a recipe, too.

## Recipes of the package

"""


def parts(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every settings class that a type speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from parts(inner)


def meaning(kind: type[BaseModel], name: str, field: FieldInfo) -> str:
    """What a setting means, in the words of its description in the code."""
    if field.description is not None:
        return field.description
    if any(parts(field.annotation)):
        return "see below"
    raise SystemExit(f"{kind.__name__}.{name}: no description; give its Field one")


def type_name(annotation: Any, field: FieldInfo) -> str:
    """A type in words, with the limits of the field."""
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if NoneType in arguments:
        rest = [argument for argument in arguments if argument is not NoneType]
        return " or ".join([*(type_name(argument, field) for argument in rest), "null"])
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"{len(arguments)} {type_name(arguments[0], field)}s"
    if origin is tuple:
        return f"list of {type_name(arguments[0], field)}s"
    if origin is dict:
        return "mapping"
    if any(parts(annotation)):
        return "section"
    names = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "anything"}
    return names[annotation] + limits(field)


def limits(field: FieldInfo) -> str:
    """The bounds of a number, such as `` ≥ 1`` or `` > 0, ≤ 1``."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = {key: getattr(item, key) for item in field.metadata for key in signs if hasattr(item, key)}
    if bounds.keys() == {"ge", "le"}:
        return f", {bounds['ge']:g} to {bounds['le']:g}"
    return ",".join(f" {signs[key]} {value:g}" for key, value in bounds.items())


def default(field: FieldInfo) -> str:
    """The default as it is written in YAML."""
    if field.default is PydanticUndefined:
        return "*required*"
    if isinstance(field.default, BaseModel):
        kind = getattr(field.default, "kind", None)
        return f"`kind: {kind}`" if kind is not None else "its defaults"
    return f"`{json.dumps(field.default)}`".replace('"', "")


def cell(text: str) -> str:
    """Text that cannot break out of its cell or become a tag."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def sections(kind: type[BaseModel], path: str = "") -> Iterator[str]:
    """A table for this part of a recipe, and then for the parts in it."""
    own_kind = kind.model_fields.get("kind")
    title = path + (f", kind: {own_kind.default}" if own_kind is not None else "")
    yield f"{'###' if '.' in path else '##'} {title or 'top level'}\n"
    yield f"{' '.join((kind.__doc__ or '').split(chr(10) * 2)[0].split())}\n"
    yield "| setting | type | default | meaning |\n| --- | --- | --- | --- |"
    for name, field in kind.model_fields.items():
        columns = (
            f"`{name}`",
            type_name(field.annotation, field),
            default(field),
            meaning(kind, name, field),
        )
        yield f"| {' | '.join(cell(column) for column in columns)} |"
    yield ""
    for name, field in kind.model_fields.items():
        for part in parts(field.annotation):
            yield from sections(part, f"{path}.{name}" if path else name)


def recipe_table() -> Iterator[str]:
    """The recipes of the package, each with the comment it begins with."""
    yield "| recipe | extends | what it is |\n| --- | --- | --- |"
    for name in available_recipes():
        text = (resources.files("crossalign.recipes") / f"{name}.yaml").read_text(encoding="utf-8")
        lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
        told = " ".join(line.removeprefix("#").strip() for line in lines)
        parent = yaml.safe_load(text).get("extends")
        yield f"| `{name}` | {f'`{parent}`' if parent else ''} | {cell(told)} |"
    yield ""


def page() -> str:
    """The whole of docs/recipes.md."""
    return INTRODUCTION + "\n".join([*recipe_table(), *sections(Recipe)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
