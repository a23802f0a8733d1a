"""Settings: every value has its own type, and an error says where it stands."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field, model_validator

from crossalign.errors import CrossAlignError
from crossalign.settings import Settings, parse_settings


class Inner(Settings):
    kind: Literal["inner"] = "inner"
    sizes: tuple[int, ...] = ()
    rate: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _sizes_rise(self) -> Inner:
        if list(self.sizes) != sorted(self.sizes):
            raise ValueError("sizes must rise")
        return self


class Other(Settings):
    kind: Literal["other"] = "other"
    open: bool = False


class Outer(Settings):
    name: str = "x"
    count: int = 3
    layer: int | None = None
    rate: Annotated[float, Field(ge=0.0)] = 0.5
    mean: tuple[float, float] = (0.5, 0.5)
    open: bool = False
    extra: dict[str, Any] = Field(default={})
    part: Inner | Other = Field(default=Inner(), discriminator="kind")
    parts: tuple[Inner, ...] = ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("count: true", "count: input should be a valid integer"),
        ("count: '64'", "count: input should be a valid integer"),
        ("count: 3.0", "count: input should be a valid integer"),
        ("layer: false", "layer: input should be a valid integer"),
        ("rate: true", "rate: input should be a valid number, found true"),
        ("count: null", "count: input should be a valid integer, found null"),
        ("mean: [0.5, false]", "mean.1: input should be a valid number"),
        ("mean: [0.5]", "mean.1: field required"),
        ("rate: .inf", "rate: input should be a finite number"),
        ("rate: .nan", "rate: input should be"),
        ("rate: 'inf'", "rate: input should be a finite number"),
        ("open: 'on'", "open: input should be a valid boolean"),
        ("open: 'true'", "open: input should be a valid boolean"),
        ("open: 1", "open: input should be a valid boolean"),
        ("name: 3", "name: input should be a valid string"),
        ("part: {kind: inner, sizes: [1, true]}", "part.sizes.1: input should be a valid integer"),
        ("part: {kind: inner, rate: true}", "part.rate: input should be a valid number"),
        ("part: {kind: other, open: 1}", "part.open: input should be a valid boolean"),
        ("part: {kind: other, rate: 1}", "unknown key 'part.rate'"),
        ("part: {kind: inner, sizes: [2, 1]}", "part: sizes must rise"),
        ("parts: [{}, {sizes: ['1']}]", "parts.1.sizes.0: input should be a valid integer"),
        ("parts: [{size: 1}]", "unknown key 'parts.0.size'"),
        ("part: 3", "part: give settings such as {kind: inner}, found 3"),
        ("part: {kind: foo}", "part.kind: 'foo' is none of inner, other"),
        ("count: zero", "count: input should be a valid integer, found 'zero'"),
        ("count: [1]", "count: input should be a valid integer, found [1]"),
        (f"count: {'x ' * 99}y", f"count: input should be a valid integer, found '{'x ' * 30} ...'"),
        ("counts: 3", "unknown key 'counts', did you mean count?"),
        ("part: {kind: inner, size: [1]}", "unknown key 'part.size', did you mean sizes?"),
        ("part: {kind: other, opened: true}", "unknown key 'part.opened', did you mean open?"),
        ("parts: [3]", "parts.0: give settings such as {kind: inner}, found 3"),
        ("extra: 3", "extra: give settings (key: value), found 3"),
        (
            "count: true\nopen: 1\nnam: y",
            "count: input should be a valid integer, found true; open: input should be a valid boolean, found 1; "
            "unknown key 'nam', did you mean name?",
        ),
    ],
)
def test_a_value_of_another_type_is_named(values: str, message: str) -> None:
    with pytest.raises(CrossAlignError, match=f"^there: {re.escape(message)}") as caught:
        parse_settings(Outer, yaml.safe_load(values), "there")
    assert "\n" not in str(caught.value)


def test_what_is_no_mapping_is_told() -> None:
    with pytest.raises(
        CrossAlignError,
        match=r"^there: the whole: give settings \(key: value\) such as {name: \.\.\.}, found \[1\]$",
    ):
        parse_settings(Outer, [1], "there")


def test_numbers_are_read_as_yaml_writes_them() -> None:
    # YAML reads 5e-4 as a text: it wants a dot in it.
    values = yaml.safe_load("{rate: 5e-4, mean: [1, 2.5e-1], extra: {a: true, b: '1'}, layer: null}")
    assert isinstance(values["rate"], str)
    found = parse_settings(Outer, values, "there")
    assert (found.rate, found.mean, found.extra) == (5e-4, (1.0, 0.25), {"a": True, "b": "1"})


def test_json_and_yaml_give_the_same_settings_back() -> None:
    settings = Outer(part=Other(open=True), parts=(Inner(sizes=(1, 2), rate=1),), layer=4, extra={"a": [1]})
    values = settings.model_dump(mode="json")
    assert parse_settings(Outer, json.loads(json.dumps(values)), "there") == settings
    assert parse_settings(Outer, yaml.safe_load(yaml.safe_dump(values)), "there") == settings
    assert Outer.model_validate_json(settings.model_dump_json()) == settings
