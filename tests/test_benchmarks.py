"""Benchmarks with limits say whether they were kept, in their file and by their exit code; the page says it, too."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def load(path: Path) -> Any:
    """A script as a module."""
    spec = spec_from_file_location(f"{path.stem}_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ratio_of(median: float) -> dict[str, Any]:
    return {"median": median, "min": median - 0.1, "max": median + 0.1}


def alignment(lca: float, cra: float) -> dict[str, Any]:
    floors = {"lca": ratio_of(lca) | {"at_most": 1.5}, "cra": ratio_of(cra) | {"at_most": 1.3}}
    sizes = {"batch": 1, "regions": 1, "dim": 1}
    return {"sizes": sizes, "to_floor": floors, "plain_to_ours": {"lca": ratio_of(3.0)}}


def evaluation(ranks: float, memory: float | None) -> dict[str, Any]:
    return {
        "sizes": {"images": 1, "captions": 5, "width": 1},
        "to_product": {"ranks": ratio_of(ranks) | {"at_most": 1.3}, "untrained": ratio_of(9.0)},
        "usual_to_ours": {"full": ratio_of(5.0)},
        "memory_above_inputs_mb": {"ranks": memory, "at_most": 500},
        "statistics": {},
    }


CASES = [
    ("alignment", alignment(1.5, 1.3), []),
    ("alignment", alignment(1.2, 1.3008), ["cra"]),
    ("alignment", alignment(1.501, 1.0), ["lca"]),
    ("evaluation", evaluation(1.3, 500.0), []),
    ("evaluation", evaluation(1.2, None), []),
    ("evaluation", evaluation(1.31, 113.0), ["ranks"]),
    ("evaluation", evaluation(1.2, 501.0), ["memory_mb"]),
]


@pytest.mark.parametrize(("name", "measured", "missed"), CASES)
def test_a_missed_limit_is_written_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, name: str, measured: dict[str, Any], missed: list[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = load(ROOT / "benchmarks" / f"{name}.py")
    written: dict[str, Any] = {}
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(script, "measure", lambda *_, **__: measured)
    monkeypatch.setattr(script, "write_result", lambda file, payload: written.update(payload) or Path(file))
    for arguments, met in (([], not missed), (["--small"], None)):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            script.main()
        assert written["limits"]["met"] is met
        assert (ended.value.code or 0) == (met is False)
        assert written["limits"].get("missed", []) == (missed if met is not None else [])


@pytest.mark.parametrize(("name", "measured", "missed"), CASES)
def test_the_page_tells_missed_limits(name: str, measured: dict[str, Any], missed: list[str]) -> None:
    rows = list(getattr(load(ROOT / "docs" / "make_speed.py"), name)(measured))
    told = [figure for _, figure in rows if "limit" in figure]
    assert len(told) == 2 - (name == "evaluation" and measured["memory_above_inputs_mb"]["ranks"] is None)
    assert sum(figure.endswith(": **missed**") for figure in told) == len(missed)
    assert sum(figure.endswith(": met") for figure in told) == len(told) - len(missed)
