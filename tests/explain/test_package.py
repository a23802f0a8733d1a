"""The package exports what it says."""

from __future__ import annotations

import pytest

import crossalign.explain as package


@pytest.mark.parametrize("name", package.__all__)
def test_every_exported_name_is_there_and_no_module(name: str) -> None:
    assert getattr(package, name).__module__.startswith("crossalign.explain.")


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = package.nonsense
