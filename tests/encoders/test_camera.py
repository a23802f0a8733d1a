"""CAMERA's encoders against plain loops."""

from __future__ import annotations

from typing import Any

import plain_encoders as plain
import pytest
import torch
from encoder_checks import (
    assert_close_under_autocast,
    assert_finite_everywhere,
    assert_gradients_reach_every_parameter,
    assert_padding_has_no_influence,
)
from plain_encoders import MASKS
from torch import Tensor, nn

from crossalign.encoders.camera import CAMERAImageEncoder, CAMERATextEncoder
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError

B, N, C, D, V = 5, 6, 7, 8, 3
ASPECT = torch.tensor([1.5, 0.7, 1.0, 2.0, 0.5])
IMAGE: list[dict[str, Any]] = [{}, {"norm_axis": "regions"}, {"positions": False}]
TEXT: list[dict[str, Any]] = [{}, {"norm_axis": "words"}, {"norm_axis": "none"}]
SIDES = [("image", settings) for settings in IMAGE] + [("text", settings) for settings in TEXT]


def units(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(B, N, C, generator=generator, dtype=torch.float64).to(dtype)


def some_boxes() -> Tensor:
    generator = torch.Generator().manual_seed(4)
    corners = torch.rand(B, N, 2, generator=generator, dtype=torch.float64) * 0.5
    extent = 0.05 + torch.rand(B, N, 2, generator=generator, dtype=torch.float64) * 0.4
    return torch.cat([corners, corners + extent], dim=2)


def build(side: str, settings: dict[str, Any], dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    encoder: nn.Module
    if side == "image":
        encoder = CAMERAImageEncoder(C, D, heads=2, views=V, channels=4, **settings)
    else:
        encoder = CAMERATextEncoder(C, D, heads=2, **settings)
    plain.random_norms(encoder)
    return encoder.to(dtype)


def call(module: nn.Module, rows: Tensor, mask: Tensor) -> Encoding:
    places = (some_boxes().to(rows.dtype), ASPECT) if isinstance(module, CAMERAImageEncoder) else ()
    encoding: Encoding = module(rows, mask, *places)
    return encoding


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("settings", IMAGE)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_image_encoder_equals_plain_loops(mask: Tensor, settings: dict[str, Any], training: bool) -> None:
    encoder = build("image", settings).train(training)
    assert isinstance(encoder, CAMERAImageEncoder)
    result = encoder(units(), mask, some_boxes(), ASPECT)
    views, locals, context, logits = plain.camera_image(
        encoder, units(), mask, some_boxes(), ASPECT, settings.get("norm_axis", "features")
    )
    plain.assert_items_equal(result.embedding, views)
    plain.assert_items_equal(result.locals, locals, mask)
    plain.assert_items_equal(result.context, context, mask)
    real_logits = [context[i][:0] if item is None else item for i, item in enumerate(logits)]
    plain.assert_items_equal(result.aux["summary_logits"], real_logits, mask)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("settings", TEXT)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_text_encoder_equals_plain_loops(mask: Tensor, settings: dict[str, Any], training: bool) -> None:
    encoder = build("text", settings).train(training)
    assert isinstance(encoder, CAMERATextEncoder)
    result = encoder(units(), mask)
    embeddings, locals, context = plain.camera_text(
        encoder, units(), mask, settings.get("norm_axis", "features")
    )
    plain.assert_items_equal(result.embedding, embeddings)
    plain.assert_items_equal(result.locals, locals, mask)
    plain.assert_items_equal(result.context, context, mask)


@pytest.mark.parametrize(("side", "settings"), SIDES)
@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
@pytest.mark.parametrize("mask", ["front", "scattered", "empty"])
def test_padded_units_have_no_influence(
    mask: str, garbage: float, side: str, settings: dict[str, Any]
) -> None:
    def dirty(module: nn.Module, rows: Tensor, real: Tensor) -> Encoding:
        if side == "text":
            return call(module, rows, real)
        boxes = some_boxes().float().masked_fill(~real.unsqueeze(-1), garbage)
        encoding: Encoding = module(rows, real, boxes, ASPECT)
        return encoding

    assert_padding_has_no_influence(
        lambda: build(side, settings, torch.float32), call, dirty, units(torch.float32), MASKS[mask], garbage
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("side", "settings"), SIDES)
@pytest.mark.parametrize("count", [0, 1])
def test_batch_with_next_to_nothing_is_finite(
    count: int, side: str, settings: dict[str, Any], training: bool
) -> None:
    mask = torch.zeros(B, N, dtype=torch.bool)
    mask[2, 4] = count == 1
    encoder = build(side, settings, torch.float32).train(training)
    assert_finite_everywhere(call, encoder, units(torch.float32), mask)
    embedding = call(encoder, units(torch.float32), mask).embedding
    assert embedding.norm(dim=-1).count_nonzero() == count * (V if side == "image" else 1)


@pytest.mark.parametrize(("side", "settings"), SIDES)
def test_gradients_reach_every_parameter(side: str, settings: dict[str, Any]) -> None:
    assert_gradients_reach_every_parameter(call, build(side, settings).eval(), units(), MASKS["front"])


@pytest.mark.parametrize(("side", "settings"), SIDES)
def test_autocast(side: str, settings: dict[str, Any]) -> None:
    encoder = build(side, settings, torch.float32).eval()
    assert_close_under_autocast(call, encoder, units(torch.float32), MASKS["empty"])


def test_views_have_unit_norm() -> None:
    embedding = call(build("image", {}), units(), MASKS["scattered"]).embedding
    assert embedding.shape == (B, V, D)
    torch.testing.assert_close(embedding.norm(dim=2), torch.ones(B, V).double())


def test_boxes_matter_unless_they_are_switched_off() -> None:
    mask = MASKS["all"]
    encoder = build("image", {}).eval()
    moved = some_boxes().roll(1, dims=1)
    assert not torch.allclose(
        encoder(units(), mask, moved).embedding, encoder(units(), mask, some_boxes()).embedding
    )
    with pytest.raises(CrossAlignError, match="no boxes"):
        encoder(units(), mask)
    blind = build("image", {"positions": False}).eval()
    assert torch.equal(blind(units(), mask, moved).embedding, blind(units(), mask).embedding)


@pytest.mark.parametrize(("side", "count"), [("image", 1), ("text", 3)])
def test_every_dropout_acts_in_training_only(side: str, count: int) -> None:
    encoder, mask = build(side, {"dropout": 0.5}), MASKS["front"]
    layers = [layer for layer in encoder.modules() if isinstance(layer, nn.Dropout)]
    assert len(layers) == count
    for chosen in layers:
        for layer in layers:
            layer.p = 0.5 if layer is chosen else 0.0
        encoder.train()
        first = call(encoder, units(), mask).embedding
        assert not torch.allclose(first, call(encoder, units(), mask).embedding)
        encoder.eval()
        assert torch.equal(call(encoder, units(), mask).embedding, call(encoder, units(), mask).embedding)


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(CrossAlignError, match="norm_axis is 'words'"):
        CAMERAImageEncoder(C, D, norm_axis="words")  # type: ignore[arg-type]
    with pytest.raises(CrossAlignError, match="norm_axis is 'regions'"):
        CAMERATextEncoder(C, D, norm_axis="regions")  # type: ignore[arg-type]
    with pytest.raises(CrossAlignError, match="3 heads do not divide the width 8"):
        CAMERATextEncoder(C, D, heads=3)
