"""The base of every typed setting: unknown keys are refused, and an error names the key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, core_schema

from crossalign.errors import CrossAlignError

__all__ = ["Settings", "parse_settings", "read_yaml"]

S = TypeVar("S", bound=BaseModel)
# How pydantic calls something else in place of settings.
_NO_SETTINGS = ("model_type", "model_attributes_type", "dict_type")
_NO_LIST = ("tuple_type", "list_type")
_LONGEST = 60


def _strict(schema: Any, owner: type[BaseModel]) -> Any:
    """The schema of one class in which no text and no fraction is an integer, and nothing else a switch.

    Strictness for all of it would also refuse a list for a tuple and ``5e-4`` for a number.
    """
    if isinstance(schema, list):
        return [_strict(part, owner) for part in schema]
    # Another class in it has seen to itself.
    if not isinstance(schema, dict) or (schema.get("type") == "model" and schema["cls"] is not owner):
        return schema
    if schema.get("type") in ("int", "bool"):
        return {**schema, "strict": True}
    if schema.get("type") == "float":
        return core_schema.no_info_before_validator_function(_no_switch, cast(CoreSchema, schema))
    return {key: _strict(part, owner) for key, part in schema.items()}


def _no_switch(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"input should be a valid number, found {_shown(value)}")
    return value


class Settings(BaseModel):
    """Immutable, strict settings with a default for everything that has a sensible one.

    A list may stand for a tuple, as in JSON and YAML, and a text for a number with a fraction, since YAML reads
    ``5e-4`` as a text. No other type stands for another, and no number is infinite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = _strict(handler(source), cls)
        return schema

    @model_validator(mode="before")
    @classmethod
    def _a_part_is_of_its_default_kind(cls, values: Any) -> Any:
        """Where a part may be of several kinds and names none, it is of the default one."""
        if not isinstance(values, dict):
            return values
        completed = dict(values)
        for name, field in cls.model_fields.items():
            part = values.get(name)
            if field.discriminator == "kind" and isinstance(part, dict) and "kind" not in part:
                completed[name] = {"kind": field.default.kind, **part}
        return completed


def read_yaml(file: Path | Traversable, told: str) -> Any:
    """What a YAML file holds.

    Args:
        told: what messages call it.

    Raises:
        CrossAlignError: it is not UTF-8, or not YAML.
    """
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise CrossAlignError(f"{told}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that no calendar has
        raise CrossAlignError(f"{told}: not valid YAML ({' '.join(str(error).split())})") from None


def parse_settings(kind: type[S], values: Any, source: str) -> S:
    """Validate ``values`` as ``kind``.

    Raises:
        CrossAlignError: an unknown key, a missing key or a value of the wrong type; every one of them is named.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            place = _place(values, problem["loc"], missing=problem["type"] == "missing")
            if problem["type"] == "extra_forbidden":
                known = [name for part in _parts_at(kind, problem["loc"][:-1]) for name in part.model_fields]
                close = get_close_matches(str(problem["loc"][-1]), known, 1)
                problems.append(f"unknown key '{place}'" + (f", did you mean {close[0]}?" if close else ""))
            elif problem["type"] in _NO_SETTINGS:
                example = _example(_parts_at(kind, problem["loc"]))
                problems.append(f"{place or 'the whole'}: {example}, found {_shown(problem['input'])}")
            elif problem["type"] in _NO_LIST:
                problems.append(f"{place}: give a list ([...]), found {_shown(problem['input'], quote=True)}")
            elif problem["type"] == "union_tag_invalid":
                kinds = problem["ctx"]["expected_tags"].replace("'", "")
                problems.append(f"{place}.kind: '{problem['ctx']['tag']}' is none of {kinds}")
            elif problem["type"] == "union_tag_not_found":
                problems.append(f"{place}: kind is missing; it says which one is meant")
            elif problem["type"] == "value_error":
                problems.append(
                    f"{place}: {problem['ctx']['error']}" if place else str(problem["ctx"]["error"])
                )
            else:
                told = f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
                if problem["type"] != "missing":
                    told += f", found {_shown(problem['input'], quote=True)}"
                problems.append(f"{place or 'the whole'}: {told}")
        raise CrossAlignError(f"{source}: {'; '.join(problems)}") from None


def _parts_at(kind: type[BaseModel], location: Sequence[int | str]) -> list[type[BaseModel]]:
    """The classes that settings at this place may be of."""
    found = [kind]
    for part in location:
        fields = [model.model_fields[part] for model in found if part in model.model_fields]
        if fields:
            found = [model for field in fields for model in _classes(field.annotation)]
        elif isinstance(part, str):
            # The name of the kind that is meant, which the values do not nest.
            found = [m for m in found if "kind" in m.model_fields and m.model_fields["kind"].default == part]
    return found


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    """The classes of settings within ``A | B``, ``tuple[A, ...]`` and their like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)


def _example(parts: Sequence[type[BaseModel]]) -> str:
    kinds = [part.model_fields["kind"].default for part in parts if "kind" in part.model_fields]
    if kinds:
        return f"give settings such as {{kind: {kinds[0]}}}"
    keys = [name for part in parts for name in part.model_fields]
    return "give settings (key: value)" + (f" such as {{{keys[0]}: ...}}" if keys else "")


def _shown(value: Any, *, quote: bool = False) -> str:
    """A value on one line, not too long."""
    # As YAML writes them.
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
    text = "null" if value is None else " ".join(text.split())
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
    return f"'{text}'" if quote and isinstance(value, str) else text


def _place(values: Any, location: Sequence[int | str], *, missing: bool) -> str:
    """Where in ``values`` a problem is; pydantic's location also names which type of a union was tried."""
    keys = []
    for depth, part in enumerate(location):
        is_last = depth == len(location) - 1
        try:
            values = values[part]
        except (LookupError, TypeError):
            # Not of the input: the name of a union's type, or the key that is missing.
            if not (missing and is_last):
                continue
        keys.append(str(part))
    return ".".join(keys)
