"""Losses, gradients and pooling agree with what the methods' published implementations give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crossalign.alignment import (
    CrossModalSoftLabels,
    LocalConceptAlignment,
    UniModalSoftLabels,
    global_to_local_nce,
    lca_loss,
    sinkhorn,
)
from crossalign.encoders.pooling import GeneralizedPooling
from crossalign.losses import ContrastiveLoss, HingeRankingLoss

FOLDER = Path(__file__).parent


def names(pattern: str) -> list[str]:
    found = sorted(path.stem for path in FOLDER.glob(pattern))
    assert found, pattern
    return found


def read(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "__meta__"}
        return tensors, json.loads(str(arrays["__meta__"]))


def assert_agrees(ours: Tensor | None, golden: Tensor) -> None:
    """Within 1e-5 of the largest value."""
    assert ours is not None
    assert ours.shape == golden.shape
    assert (ours.detach() - golden).abs().max() <= 1e-5 * golden.abs().max()


@pytest.mark.parametrize("name", names("lca_*.npz"))
def test_golden_lca(name: str) -> None:
    golden, meta = read(name)
    leaves = [golden[key].clone().requires_grad_() for key in ("regions", "words", "codebook")]
    mask = torch.arange(golden["words"].shape[1]) < golden["lengths"].unsqueeze(1)
    loss = lca_loss(
        *leaves,
        word_mask=mask,
        word_temperature=meta["student_temp"],
        epsilon=meta["epsilon"],
        sinkhorn_iterations=meta["sinkhorn_iterations"],
    )
    loss.backward()
    assert_agrees(loss, golden["loss"])
    assert leaves[0].grad is None
    assert golden["grad_regions"].abs().sum() == 0
    assert_agrees(leaves[1].grad, golden["grad_words"])
    assert_agrees(leaves[2].grad, golden["grad_codebook"])
    logits = golden["regions"].flatten(0, 1) @ golden["codebook"].T
    assert_agrees(sinkhorn(logits, meta["epsilon"], meta["sinkhorn_iterations"]), golden["assignments"])


@pytest.mark.parametrize("name", names("lca_*.npz"))
def test_golden_lca_module_from_the_raw_codebook(name: str) -> None:
    golden, meta = read(name)
    concepts, dim = golden["codebook_raw"].shape
    module = LocalConceptAlignment(
        dim, concepts, meta["student_temp"], meta["epsilon"], meta["sinkhorn_iterations"]
    )
    module.load_state_dict({"codebook": golden["codebook_raw"]})
    mask = torch.arange(golden["words"].shape[1]) < golden["lengths"].unsqueeze(1)
    loss = module(golden["regions"], golden["words"], word_mask=mask)
    loss.backward()
    assert_agrees(loss, golden["loss"])
    assert_agrees(module.codebook, golden["codebook"])
    assert_agrees(module.codebook.grad, golden["grad_codebook"])


@pytest.mark.parametrize("name", names("cra_*.npz"))
def test_golden_cra(name: str) -> None:
    golden, meta = read(name)
    queries, keys = golden["globals"].clone().requires_grad_(), golden["locals"].clone().requires_grad_()
    loss = global_to_local_nce(queries, keys, None, meta["temperature"], meta["num_negatives"])
    loss.backward()
    assert_agrees(loss, golden["loss"])
    assert_agrees(queries.grad, golden["grad_globals"])
    assert_agrees(keys.grad, golden["grad_locals"])


@pytest.mark.parametrize("name", names("triplet_*.npz"))
def test_golden_triplet(name: str) -> None:
    golden, meta = read(name)
    scores = golden["scores"].clone().requires_grad_()
    loss = HingeRankingLoss(meta["margin"], "hardest" if meta["hardest"] else "all")(scores)
    loss.backward()
    assert_agrees(loss, golden["loss"])
    assert_agrees(scores.grad, golden["grad"])


@pytest.mark.parametrize("name", names("cusa_*.npz"))
def test_golden_cusa_contrastive(name: str) -> None:
    golden, meta = read(name)
    for reduction, key in (("paper", "contrastive_mean"), ("standard", "contrastive_sum")):
        module = ContrastiveLoss(meta["contrastive_tau"], reduction)  # type: ignore[arg-type]
        assert_agrees(module(golden["image"], golden["text"], golden["ids"]), golden[key])


@pytest.mark.parametrize("name", names("cusa_*.npz"))
def test_golden_cusa_soft_labels(name: str) -> None:
    golden, meta = read(name)
    settings = {"temperature": meta["tau"], "teacher_temperature": meta["softlabel_tau"]}
    teachers = golden["teacher_image"], golden["teacher_text"]
    for key, module, sides in (
        ("csa", CrossModalSoftLabels(meta["mode"], **settings), ("image", "text")),
        ("usa", UniModalSoftLabels(**settings), ("uni_image", "uni_text")),
    ):
        image, text = (golden[side].clone().requires_grad_() for side in sides)
        loss = module(image, text, *teachers)
        loss.backward()
        assert_agrees(loss, golden[key])
        assert_agrees(image.grad, golden[f"grad_{key}_image"])
        assert_agrees(text.grad, golden[f"grad_{key}_text"])


def test_golden_generalized_pooling() -> None:
    golden, meta = read("gpo_0")
    pooling = GeneralizedPooling(meta["d_pe"], meta["d_hidden"])
    pooling.load_state_dict({key[6:]: value for key, value in golden.items() if key.startswith("state.")})
    features, lengths = golden["features"], golden["lengths"]
    mask = torch.arange(features.shape[1]) < lengths.unsqueeze(1)
    assert_agrees(pooling(features, mask), golden["pooled"])
    assert_agrees(pooling.weights(lengths, features.shape[1]), golden["weights"].squeeze(-1))
