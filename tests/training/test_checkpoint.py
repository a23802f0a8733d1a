"""Checkpoints: a cut one is told in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crossalign.errors import CrossAlignError
from crossalign.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.mark.parametrize("part", [0.0, 1e-4, 0.01, 0.5, 0.999])
def test_a_cut_checkpoint_says_what_to_do(tmp_path: Path, part: float) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"weights": {"a": torch.arange(5000.0)}})
    assert torch.equal(load_checkpoint(path)["weights"]["a"], torch.arange(5000.0))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(CrossAlignError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == (
        f"{path}: damaged checkpoint (cut short or written over); put a whole copy back, or remove it and train "
        "the run again"
    )
