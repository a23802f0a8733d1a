"""The base of every typed setting: unknown keys are refused, and an error names the key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, core_schema

from crossalign.errors import CrossAlignError

__all__ = ["Settings", "parse_settings"]

S = TypeVar("S", bound=BaseModel)


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
        raise ValueError("input should be a valid number")
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
                problems.append(f"unknown key '{place}'")
            elif problem["type"] == "union_tag_not_found":
                problems.append(f"{place}: kind is missing; it says which one is meant")
            elif problem["type"] == "value_error":
                problems.append(
                    f"{place}: {problem['ctx']['error']}" if place else str(problem["ctx"]["error"])
                )
            else:
                told = f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
                problems.append(f"{place or 'the whole'}: {told}")
        raise CrossAlignError(f"{source}: {'; '.join(problems)}") from None


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
