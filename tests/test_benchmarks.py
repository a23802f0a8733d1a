"""Benchmarks with limits say whether they were kept, in their file and by their exit code; the page says it, too."""

from __future__ import annotations

import json
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from crossalign.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]


def load(path: Path) -> Any:
    """A script as a module."""
    spec = spec_from_file_location(f"{path.stem}_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
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


def soft(share: float) -> dict[str, Any]:
    share_of = {"median": share, "min": share / 2, "max": share * 2, "at_most": 0.02}
    return {"batch": 8, "teachers_to_step": share_of, "step_to_without": ratio_of(1.1)}


@pytest.mark.parametrize(("share", "met"), [(0.02, True), (0.0201, False)])
def test_teachers_are_held_to_their_share_of_a_step(
    monkeypatch: pytest.MonkeyPatch, share: float, met: bool
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = load(ROOT / "benchmarks" / "teachers.py")
    written: dict[str, Any] = {}
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(script, "measure", lambda *_: soft(share))
    monkeypatch.setattr(script, "write_result", lambda file, payload: written.update(payload) or Path(file))
    monkeypatch.setattr(script, "made_up", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["teachers.py"])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert (written["limits"]["met"], ended.value.code or 0) == (met, int(not met))
    rows = [figure for _, figure in load(ROOT / "docs" / "make_speed.py").teachers(written)]
    assert rows[0].endswith("limit 2 %: met" if met else "limit 2 %: **missed**")


def test_steps_with_and_without_soft_labels_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = load(ROOT / "benchmarks" / "teachers.py")
    changes = [f"data.collection={tmp_path / 'made-up'}", "training.batch_size=8", "model.dim=16"]
    recipe = load_recipe(script.RECIPE, [*changes, *script.WORDS])
    script.made_up(tmp_path / "made-up", 10, 6, recipe)
    result = script.measure(recipe, 2, time.perf_counter)
    assert set(result["times"]) == {"step", "teachers", "without"}
    assert result["teachers_to_step"]["median"] > 0


def scorer(ratio: float) -> dict[str, Any]:
    return {
        "seconds": {"ours": 9.0, "products": 6.0, "published": 90.0},
        "ours_to_products": ratio_of(ratio) | {"at_most": 1.5},
        "published_to_ours": ratio_of(10.0),
        "memory_above_inputs_mb": None,
    }


@pytest.mark.parametrize(("sgr", "missed"), [(1.5, []), (1.51, ["sgr"])])
def test_scorers_are_held_to_their_products(
    monkeypatch: pytest.MonkeyPatch, sgr: float, missed: list[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = load(ROOT / "benchmarks" / "scorers.py")
    written: dict[str, Any] = {}
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(script, "measure", lambda kind, *_: scorer(sgr if kind == "sgr" else 1.2))
    monkeypatch.setattr(script, "training_step", lambda *_: {"median_s": 1.0})
    monkeypatch.setattr(script, "write_result", lambda file, payload: written.update(payload) or Path(file))
    for arguments, met in (([], not missed), (["--small"], None)):
        monkeypatch.setattr(sys, "argv", ["scorers.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            script.main()
        assert written["limits"]["met"] is met
        assert written["limits"]["missed"] == (missed if met is not None else [])
        assert (ended.value.code or 0) == (met is False)
    rows = list(load(ROOT / "docs" / "make_speed.py").scorers(written | {"machine": {"threads": 2}}))
    assert sum(figure.endswith(": **missed**") for _, figure in rows) == len(missed)


def test_products_alone_are_all_of_the_scorers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = load(ROOT / "benchmarks" / "scorers.py")
    dim, width, regions = 8, 4, 5
    words, mask = script.made_up(30, 2, 6, dim, 0)
    texts = script.PackedUnits.of(words, mask)
    for kind, a_word, a_pair in (
        ("scan t2i", regions * dim + regions**2, 0),
        ("saf", 2 * regions * dim + regions**2 + dim * width + width, dim * width + width),
    ):
        alone = script.Products(kind, script.KINDS[kind](dim, width, regions), regions, texts)
        with FlopCounterMode(display=False) as counted:
            alone(torch.rand(11, regions, dim))
        assert counted.get_total_flops() == 2 * 11 * (len(texts.units) * a_word + len(texts) * a_pair)


def test_retrieval_times_of_random_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    script = load(ROOT / "benchmarks" / "retrieval_time.py")
    out = tmp_path / "times.json"
    monkeypatch.setattr(sys, "argv", ["retrieval_time.py", "--small", "--out", str(out)])
    script.main()
    result = json.loads(out.read_text())
    assert [(method["kind"], method["scorer"]) for method in result["methods"]] == [
        *((kind, None) for kind in ("product", "exact index", "approximate index")),
        *(("re-rank", name) for name in ("SCAN", "SGRAF")),
        *(("scorer", name) for name in ("SCAN", "SGRAF")),
    ]
    for method in result["methods"]:
        assert [point["size"] for point in method["points"]] == [20, 60]
        assert all(0 < point["p5_s"] <= point["median_s"] <= point["p95_s"] for point in method["points"])
    assert (result["weights"], result["encoding_a_query"]) == ("random", {})
    assert Image.open(out.with_suffix(".png")).width > 500
    rows = list(load(ROOT / "docs" / "make_speed.py").retrieval_time(result))
    assert len(rows) == 7
    assert all("among 60 images" in figure for _, figure in rows)


def test_repeated_images_are_near_the_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = load(ROOT / "benchmarks" / "_contenders.py")
    values = 3 * torch.randn(4, 2, 256)
    larger = script.grown(values, 11, 0.1)
    assert torch.equal(larger[:4], values)
    cosines = torch.cosine_similarity(larger[4:], values[torch.arange(7) % 4], dim=-1)
    assert bool((cosines < 1 - 1e-3).all())
    assert bool((cosines > 0.99).all())
    torch.testing.assert_close(larger[4:].norm(dim=-1), values[torch.arange(7) % 4].norm(dim=-1))


def test_the_time_of_a_query_is_told_by_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = load(ROOT / "benchmarks" / "query_time.py")
    shapes = script.shapes("flickr8k-selfalign")
    assert {"infinity", "vsrn"} <= set(shapes[1, 256])
    assert {"infinity+selfalign", "vsrn+selfalign"} <= set(shapes[1, 768])
    assert "camera+selfalign" in shapes[12, 768]
    assert not any("scan" in name or "sgraf" in name for names in shapes.values() for name in names)
    written: dict[str, Any] = {}
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(script, "write_result", lambda name, payload: written.update(payload) or Path(name))
    monkeypatch.setattr(sys, "argv", ["query_time.py", "--small", "--busy", "--repeats", "2"])
    script.main()
    rows = dict(load(ROOT / "docs" / "make_speed.py").query_time(written))
    (what,) = (what for what in rows if "width 768, 12 views an image" in what)
    assert "CPU time of one thread (`camera+heads`, " in what
    assert "among 60 images (" in rows[what]
    assert rows[what].endswith(") width 256 with one view)")


def test_words_are_told_beside_chance_and_base() -> None:
    value = {"accuracy": 40.0, "chance": 6.1, "interval": [38.0, 42.0], "words": 1234}
    less = {"difference": 24.0, "interval": [20.5, 27.5], "words": 1234}
    result = {
        "collection": "scenes",
        "runs": {"model": {"recipe": "scenes-vse-selfalign"}},
        "units": {
            "locals": {"accuracy": value | {"less_base": less}},
            "context": {"pointing": value | {"less_base": None}},
        },
        "base": {"locals": {"accuracy": {"accuracy": 16.0}}, "context": {"pointing": {"accuracy": 50.0}}},
    }
    assert list(load(ROOT / "docs" / "make_speed.py").word_regions(result)) == [
        (
            "Words of scenes that choose a region that shows it, before context (`scenes-vse-selfalign`, 1,234 words)",
            "40.0 % (38.0 to 42.0); chance 6.1, base model 16.0 (+24.0; +20.5 to +27.5)",
        ),
        (
            "Words of scenes that point at it, after context (`scenes-vse-selfalign`, 1,234 words)",
            "40.0 % (38.0 to 42.0); chance 6.1, base model 50.0",
        ),
    ]


def test_a_search_without_limits_claims_none() -> None:
    case = {
        "photos": 100_000,
        "dim": 256,
        "views": 1,
        "milliseconds": {"approximate": {"p50": 1.0, "p95": 2.0}},
    }
    result = {"limits": None, "cases": [case | {"recall_at_10": {"approximate": 0.5}}]}
    ((_, told),) = load(ROOT / "docs" / "make_speed.py").search(result)
    assert told == "1.00 ms, 95 % below 2.0 ms; recall@10 0.5000 of exact search"
