"""The base of every typed setting: unknown keys are refused, and an error names the key."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from crossalign.errors import CrossAlignError

__all__ = ["Settings", "parse_settings"]

S = TypeVar("S", bound=BaseModel)


class Settings(BaseModel):
    """Immutable, strict settings with a default for everything that has a sensible one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

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
            place = ".".join(str(part) for part in problem["loc"]) or "the whole"
            if problem["type"] == "extra_forbidden":
                problems.append(f"unknown key '{place}'")
            else:
                problems.append(f"{place}: {problem['msg'][0].lower()}{problem['msg'][1:]}")
        raise CrossAlignError(f"{source}: {'; '.join(problems)}") from None
