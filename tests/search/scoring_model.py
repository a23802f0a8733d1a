"""Small models that score words with regions, and the order they give photos in a plain loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossalign import RetrievalModel
from crossalign.encoders.words import WordTokenizer
from crossalign.model import ModelConfig
from crossalign.search import Hit

# Of float32, when photos are encoded in other batches.
ROUNDING = 2e-6
KINDS = ("scan", "sgr", "saf", "sgraf")
# Four cells and the whole photo.
UNITS = 5
BACKBONE = {
    "name": "test_byobnet",
    "layer": 3,
    "grid": 2,
    "input": {"size": 64, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


def build(kind: str | None, *, regions: str = "grid", uni: int | None = None, **image: Any) -> RetrievalModel:
    """A small model with random weights; its scorer, where it has one, looks at five regions at most.

    ``uni``: width of its uni-modal heads.
    """
    torch.manual_seed(7)
    small = {} if kind == "scan" else {"similarity_dim": 8, "regions": 5, "dropout": 0}
    tokenizer = WordTokenizer.build(["a red green blue yellow white black thing"], min_count=1)
    config = ModelConfig.model_validate(
        {
            "dim": 12,
            "uni_modal_head": None if uni is None else {"size": uni},
            "scorer": None if kind is None else {"kind": kind, **small},
            "image": image or {"backbones": [BACKBONE], "regions": regions},
            "text": {"encoder": {"kind": "gru", "word_dim": 8, "min_count": 1}},
        }
    )
    return RetrievalModel(config, tokenizer=tokenizer).eval()


def boxes_of(photos: Sequence[Image.Image]) -> list[np.ndarray]:
    """As a detector would: from none to four boxes, more in wider photos."""
    corners = np.array([[0, 0, 0.5, 0.5], [0.2, 0, 1, 0.6], [0.5, 0.5, 1, 1], [0, 0.3, 0.4, 1]], np.float32)
    return [corners[: (photo.width - 40) // 4] for photo in photos]


def with_boxes(kind: str) -> RetrievalModel:
    """A model of ragged regions."""
    model = build(kind, regions="boxes")
    model.photos._detect = boxes_of  # type: ignore[method-assign,assignment]
    return model


def counted(model: RetrievalModel) -> list[int]:
    """The sizes of the batches of photos that the model encodes from now on."""
    sizes: list[int] = []
    model.image_tower.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0].pixels)))
    return sizes


@torch.inference_mode()
def one_score(model: RetrievalModel, text: str, photo: Path) -> float:
    """What the model says of one photo and one text, each encoded alone."""
    image = model.image_tower(model.image_inputs([photo]))
    return float(model.scores(image, model.text_tower(model.text_inputs([text]))))


def check_best(hits: Sequence[Hit], model: RetrievalModel, text: str, among: Sequence[Hit]) -> None:
    """The hits are the best of what they were found among, with the scores of a plain loop, in their order."""
    scores = {hit.file: one_score(model, text, hit.path) for hit in among}
    best = sorted(scores.values(), reverse=True)
    assert best[0] - best[-1] > 1000 * ROUNDING
    assert [hit.score for hit in hits] == pytest.approx(best[: len(hits)], abs=ROUNDING)
    assert [hit.score for hit in hits] == pytest.approx([scores[hit.file] for hit in hits], abs=ROUNDING)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len({hit.file for hit in hits}) == len(hits)
