"""Proofs that take minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossalign.demo import run_demo

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def test_the_whole_demo_learns_and_points_at_what_words_mean(tmp_path: Path) -> None:
    outcome = run_demo(tmp_path / "demo", progress=False)
    metrics = outcome.result.metrics
    # Among 500 scenes chance is 0.2 % for R@1; a bag of words that sees everything reaches about 26 %.
    assert metrics["t2i_r1"] > 8
    assert metrics["t2i_r10"] > 45
    assert metrics["t2i_r1"] < 60
    assert outcome.grounding.accuracy > 3 * outcome.grounding.chance
