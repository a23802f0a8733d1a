"""Mean, maximum and generalized pooling against plain loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.encoders.pooling import GeneralizedPooling, MaxPooling, MeanPooling, build_pooling
from crossalign.errors import CrossAlignError

B, N, D = 5, 7, 6
MASK = torch.arange(N) < torch.tensor([7, 3, 1, 3, 5]).unsqueeze(1)
SCATTERED = torch.tensor(
    [[0, 1, 0, 1, 1, 0, 0], [1, 0, 0, 0, 1, 0, 1], [0, 0, 1, 0, 0, 0, 0]] + [[1] * 7] * 2
)
MASKS = [None, MASK, SCATTERED.bool()]
KINDS = ["mean", "max", "gpo"]


def units(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(B, N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def build(kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    return build_pooling(kind, D).to(dtype)


def plain_weights(pooling: GeneralizedPooling, length: int) -> Tensor:
    """The weights of one length, from a sequence of just that length."""
    dtype = pooling.linear.weight.dtype
    encoding = torch.zeros(length, 32, dtype=dtype)
    for position in range(length):
        for feature in range(0, 32, 2):
            angle = torch.tensor(position / 10000 ** (feature / 32), dtype=dtype)
            encoding[position, feature], encoding[position, feature + 1] = angle.sin(), angle.cos()
    states = pooling.gru(encoding.unsqueeze(0))[0][0]
    return F.softmax(((states[:, :32] + states[:, 32:]) / 2 @ pooling.linear.weight[0]) / 0.1, dim=0)


def plain_pool(pooling: nn.Module, features: Tensor, mask: Tensor | None) -> Tensor:
    rows = []
    for i in range(B):
        real = features[i] if mask is None else features[i][mask[i]]
        if isinstance(pooling, MeanPooling):
            rows.append(real.sum(dim=0) / len(real))
        elif isinstance(pooling, MaxPooling):
            rows.append(torch.stack([real[:, d].max() for d in range(D)]))
        else:
            assert isinstance(pooling, GeneralizedPooling)
            weights = plain_weights(pooling, len(real))
            rows.append(torch.stack([real[:, d].sort(descending=True).values @ weights for d in range(D)]))
    return torch.stack(rows)


@pytest.mark.parametrize("mask", MASKS, ids=["all", "front", "scattered"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_plain_loops(kind: str, mask: Tensor | None) -> None:
    pooling, features = build(kind), units().requires_grad_()
    signs = torch.randn(B, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inputs = (features, *pooling.parameters())
    result = pooling(features, mask)
    expected = plain_pool(pooling, features, mask)
    # The positional encoding is made in float32.
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-7)
    ours = torch.autograd.grad((result * signs).sum(), inputs)
    plain = torch.autograd.grad((expected * signs).sum(), inputs)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", MASKS, ids=["all", "front", "scattered"])
@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences(kind: str, mask: Tensor | None) -> None:
    pooling = build(kind)
    assert torch.autograd.gradcheck(lambda features: pooling(features, mask), (units().requires_grad_(),))


def with_gradients(kind: str, features: Tensor, mask: Tensor | None) -> list[Tensor]:
    pooling = build(kind, torch.float32)
    leaf = features.detach().clone().requires_grad_()
    pooled = pooling(leaf, mask)
    (pooled.float() * torch.arange(1.0, D + 1)).sum().backward()
    assert leaf.grad is not None
    return [pooled.detach(), leaf.grad, *(p.grad for p in pooling.parameters() if p.grad is not None)]


@pytest.mark.parametrize("garbage", [1e4, -1e4, 3e38, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_padded_units_have_no_influence(kind: str, garbage: float) -> None:
    features = units(torch.float32)
    padded = ~MASK.unsqueeze(-1)
    clean = with_gradients(kind, features.masked_fill(padded, 0.0), MASK)
    dirty = with_gradients(kind, features.masked_fill(padded, garbage), MASK)
    for ours, expected in zip(dirty, clean, strict=True):
        assert torch.equal(ours, expected)
    assert dirty[1][~MASK].abs().sum() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_padded_batch_equals_the_unpadded_one(kind: str) -> None:
    features = units(torch.float32)
    plain = with_gradients(kind, features, None)
    mask = (torch.arange(N + 4) < N).expand(B, -1)
    ours = with_gradients(kind, F.pad(features, (0, 0, 0, 4), value=1e4), mask)
    ours[1] = ours[1][:, :N]
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_item_without_units_is_zero_and_gradients_stay_finite(kind: str) -> None:
    mask = MASK.clone()
    mask[1] = False
    tensors = with_gradients(kind, units(torch.float32), mask)
    assert all(tensor.isfinite().all() for tensor in tensors)
    assert tensors[0][1].abs().sum() == 0
    assert tensors[1][1].abs().sum() == 0


@pytest.mark.parametrize("layout", ["one unit", "transposed"])
def test_input_is_left_alone_whatever_its_layout(layout: str) -> None:
    features = units(torch.float32)[:, :1] if layout == "one unit" else units(torch.float32)
    if layout == "transposed":
        features = features.transpose(1, 2).contiguous().transpose(1, 2)
    before = features.clone()
    build("gpo", torch.float32)(features, torch.zeros(features.shape[:2], dtype=torch.bool))
    assert torch.equal(features, before)


def test_equal_values_share_no_weight_twice() -> None:
    pooling = build("gpo")
    features = torch.ones(1, 4, 1, dtype=torch.float64, requires_grad=True)
    pooled = pooling(features)
    torch.testing.assert_close(pooled, torch.ones(1, 1, dtype=torch.float64))
    assert torch.autograd.grad(pooled.sum(), features)[0].sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_and_autocast(kind: str, dtype: torch.dtype) -> None:
    features = units(dtype)
    pooling = build(kind, torch.float32)
    expected = pooling(features.float(), MASK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = pooling(features, MASK)
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), expected, rtol=0.02, atol=0.02)


def test_weights_do_not_depend_on_the_rest_of_the_batch() -> None:
    pooling = build("gpo")
    assert isinstance(pooling, GeneralizedPooling)
    together = pooling.weights(torch.tensor([2, 5, 7]), 9)
    alone = pooling.weights(torch.tensor([5]), 5)
    torch.testing.assert_close(together[1, :5], alone[0])
    assert together[1, 5:].abs().sum() == 0


def test_unknown_pooling_is_refused() -> None:
    with pytest.raises(CrossAlignError, match="'sum' is unknown; choose one of gpo, max, mean"):
        build_pooling("sum", D)
