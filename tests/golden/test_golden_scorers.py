"""Scorers agree with what the methods' published implementations give, as a matrix and pair by pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crossalign.scorers import SAFScorer, SCANScorer, Scorer, SGRScorer, from_published

FOLDER = Path(__file__).parent


def read(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "__meta__"}
        return tensors, json.loads(str(arrays["__meta__"]))


SCAN_SETTINGS = [key for key in read("scan_0")[0] if key.startswith(("t2i.", "i2t."))]


def assert_scores(scorer: Scorer[Any], golden: dict[str, Tensor], expected: Tensor) -> None:
    """Within 1e-5 of the largest score."""
    scorer.eval()
    regions, words = golden["regions"], golden["words"]
    mask = torch.arange(words.shape[1]) < golden["lengths"].unsqueeze(1)
    i, j = torch.cartesian_prod(torch.arange(len(regions)), torch.arange(len(words))).T
    with torch.no_grad():
        scores = scorer(regions, words, None, mask)
        pairs = scorer.pairs(regions[i], words[j], None, mask[j])
    assert scores.shape == expected.shape
    assert (scores - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (pairs.view_as(expected) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("setting", SCAN_SETTINGS)
def test_golden_scan(setting: str) -> None:
    golden, meta = read("scan_0")
    direction, norm, aggregation = setting.split(".")
    scorer = SCANScorer(
        direction,  # type: ignore[arg-type]
        norm,  # type: ignore[arg-type]
        aggregation,  # type: ignore[arg-type]
        meta["lambda_softmax"],
        meta["lambda_lse"],
    )
    assert_scores(scorer, golden, golden[setting])


def test_golden_scan_has_all_settings() -> None:
    assert len(SCAN_SETTINGS) == 2 * 3 * 4


@pytest.mark.parametrize("name", ["sgr", "saf"])
def test_golden_sgraf(name: str) -> None:
    golden, meta = read(f"sgraf_{name}")
    dim = golden["regions"].shape[2]
    size = (dim, meta["sim_dim"])
    scorer = SGRScorer(*size, meta["steps"]) if name == "sgr" else SAFScorer(*size)
    state = {key[6:]: value for key, value in golden.items() if key.startswith("state.")}
    scorer.load_state_dict(from_published(state))
    assert_scores(scorer, golden, golden["sims"])
