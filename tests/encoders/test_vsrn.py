"""The relation layer and the image encoder of VSRN against plain loops."""

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
    tensors_of,
)
from plain_encoders import MASKS
from torch import Tensor, nn

from crossalign.encoders.vsrn import RegionRelation, VSRNEncoder
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError

B, N, C, D = 5, 6, 7, 8
SETTINGS: list[dict[str, Any]] = [
    {},
    {"norm_axis": "regions"},
    {"norm_axis": "regions", "normalize_projection": False, "embedding_norm": True},
]


def regions(dtype: torch.dtype = torch.float64, width: int = C) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(B, N, width, generator=generator, dtype=torch.float64).to(dtype)


def build(dtype: torch.dtype = torch.float64, **settings: Any) -> VSRNEncoder:
    torch.manual_seed(1)
    encoder = VSRNEncoder(C, D, layers=2, **settings)
    plain.random_norms(encoder)
    return encoder.to(dtype)


def call(module: nn.Module, units: Tensor, mask: Tensor) -> Encoding:
    encoding: Encoding = module(units, mask)
    return encoding


# Fewer features than rows, and more: the layer multiplies in another order.
@pytest.mark.parametrize("width", [4, 40])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_relation_layer_equals_plain_loops(mask: Tensor, training: bool, width: int) -> None:
    torch.manual_seed(2)
    layer = RegionRelation(width).double().train(training)
    plain.random_norms(layer)
    ours, theirs = regions(width=width).requires_grad_(), regions(width=width).requires_grad_()
    result = layer(ours, mask)
    expected = plain.related(layer, plain.real_items(theirs, mask))
    plain.assert_items_equal(result, expected, mask)
    signs = torch.randn(B, N, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    inputs = list(layer.parameters())
    first = torch.autograd.grad((result * signs).sum(), [ours, *inputs])
    total = torch.stack([(rows * signs[i][mask[i]]).sum() for i, rows in enumerate(expected)]).sum()
    for one, other in zip(first, torch.autograd.grad(total, [theirs, *inputs]), strict=True):
        torch.testing.assert_close(one, other)


def test_new_relation_layer_changes_nothing() -> None:
    units = regions()
    assert torch.equal(RegionRelation(C).double()(units), units)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_encoder_equals_plain_loops(mask: Tensor, settings: dict[str, Any], training: bool) -> None:
    encoder, units = build(**settings).train(training), regions()
    result = encoder(units, mask)
    embeddings, locals, context = plain.vsrn(
        encoder,
        units,
        mask,
        settings.get("norm_axis", "features"),
        settings.get("normalize_projection", True),
    )
    plain.assert_items_equal(result.embedding, embeddings)
    plain.assert_items_equal(result.locals, locals, mask)
    plain.assert_items_equal(result.context, context, mask)


def test_running_statistics_are_those_of_real_units() -> None:
    mask = MASKS["front"]
    layer = RegionRelation(C).double()
    layer(regions().masked_fill(~mask.unsqueeze(-1), 1e4), mask)
    packed = regions()[mask]
    told = [plain.linear(layer.output, _told(layer, rows)) for rows in packed.split(mask.sum(dim=1).tolist())]
    rows = torch.cat(told)
    torch.testing.assert_close(layer.norm.running_mean, 0.1 * rows.mean(dim=0))
    torch.testing.assert_close(layer.norm.running_var, 0.9 + 0.1 * rows.var(dim=0))


def _told(layer: RegionRelation, rows: Tensor) -> Tensor:
    affinity = plain.linear(layer.query, rows) @ plain.linear(layer.key, rows).T / len(rows)
    return affinity @ plain.linear(layer.value, rows)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
@pytest.mark.parametrize("mask", ["front", "scattered", "empty"])
def test_padded_regions_have_no_influence(mask: str, garbage: float, settings: dict[str, Any]) -> None:
    assert_padding_has_no_influence(
        lambda: build(torch.float32, **settings), call, call, regions(torch.float32), MASKS[mask], garbage
    )


@pytest.mark.parametrize("settings", SETTINGS)
def test_padded_batch_equals_the_unpadded_one(settings: dict[str, Any]) -> None:
    units = regions(torch.float32)
    expected = build(torch.float32, **settings)(units, MASKS["all"])
    padded = torch.cat([units, torch.full((B, 3, C), 1e4)], dim=1)
    result = build(torch.float32, **settings)(padded, (torch.arange(N + 3) < N).expand(B, -1))
    torch.testing.assert_close(result.embedding, expected.embedding, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.context[:, :N], expected.context, rtol=1e-5, atol=1e-5)
    assert result.context[:, N:].abs().sum() == 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("count", [0, 1])
def test_batch_with_next_to_nothing_is_finite(count: int, settings: dict[str, Any], training: bool) -> None:
    mask = torch.zeros(B, N, dtype=torch.bool)
    mask[2, 4] = count == 1
    encoder = build(torch.float32, **settings).train(training)
    assert_finite_everywhere(call, encoder, regions(torch.float32), mask)
    assert encoder(regions(torch.float32), mask).embedding.norm(dim=1).count_nonzero() == count


def test_order_of_regions_matters_and_their_number() -> None:
    encoder, units = build().eval(), regions()
    turned = encoder(units.flip(1), MASKS["all"])
    same = encoder(units, MASKS["all"])
    torch.testing.assert_close(turned.context.flip(1), same.context)
    assert not torch.allclose(turned.embedding, same.embedding, atol=1e-3)


@pytest.mark.parametrize("settings", SETTINGS)
def test_gradients_reach_every_parameter(settings: dict[str, Any]) -> None:
    encoder = build(**settings).eval()
    assert_gradients_reach_every_parameter(call, encoder, regions(), MASKS["front"])


@pytest.mark.parametrize("settings", SETTINGS)
def test_autocast(settings: dict[str, Any]) -> None:
    encoder = build(torch.float32, **settings).eval()
    assert_close_under_autocast(call, encoder, regions(torch.float32), MASKS["empty"])


def test_unit_norm() -> None:
    result = build()(regions(), MASKS["scattered"])
    torch.testing.assert_close(result.embedding.norm(dim=1), torch.ones(B).double())
    torch.testing.assert_close(result.locals.norm(dim=2), MASKS["scattered"].double())
    assert all(tensor.dtype == torch.float64 for tensor in tensors_of(result))


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(CrossAlignError, match="layers is 0"):
        VSRNEncoder(C, D, layers=0)
    with pytest.raises(CrossAlignError, match="norm_axis is 'rows'"):
        VSRNEncoder(C, D, norm_axis="rows")  # type: ignore[arg-type]
