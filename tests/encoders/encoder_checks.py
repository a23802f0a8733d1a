"""What every encoder of regions or words has to keep: padding without influence, finite numbers, gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from crossalign.encoding import Encoding

Call = Callable[[nn.Module, Tensor, Tensor], Encoding]


def tensors_of(encoding: Encoding) -> list[Tensor]:
    return [encoding.embedding, encoding.locals, encoding.context, *encoding.aux.values()]


def with_gradients(call: Call, module: nn.Module, units: Tensor, mask: Tensor) -> list[Tensor]:
    """The encoding's tensors, then the gradients of a fixed weighted sum of them, then the buffers."""
    module.zero_grad()
    leaf = units.detach().clone().requires_grad_()
    outputs = tensors_of(call(module, leaf, mask))
    generator = torch.Generator().manual_seed(9)
    weights = [torch.randn(output.shape, generator=generator, dtype=torch.float64) for output in outputs]
    total = sum(
        (output.double() * weight.masked_fill(output.detach() == 0, 0.0)).sum()
        for output, weight in zip(outputs, weights, strict=True)
    )
    assert isinstance(total, Tensor)
    total.backward()
    assert leaf.grad is not None
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return [*(output.detach() for output in outputs), leaf.grad, *gradients, *module.buffers()]


def assert_padding_has_no_influence(
    build: Callable[[], nn.Module], call: Call, dirty_call: Call, units: Tensor, mask: Tensor, garbage: float
) -> None:
    """Bit-equal outputs, gradients and running statistics, whatever stands at padded units."""
    padded = ~mask.unsqueeze(-1)
    clean = with_gradients(call, build(), units.masked_fill(padded, 0.0), mask)
    dirty = with_gradients(dirty_call, build(), units.masked_fill(padded, garbage), mask)
    for ours, expected in zip(dirty, clean, strict=True):
        assert torch.equal(ours, expected)


def assert_finite_everywhere(call: Call, module: nn.Module, units: Tensor, mask: Tensor) -> None:
    for tensor in with_gradients(call, module, units, mask):
        assert tensor.isfinite().all()


def assert_gradients_reach_every_parameter(
    call: Call, module: nn.Module, units: Tensor, mask: Tensor
) -> None:
    with_gradients(call, module, units, mask)
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def assert_close_under_autocast(call: Call, module: nn.Module, units: Tensor, mask: Tensor) -> None:
    """bfloat16 gives nearly the same vectors and finite gradients; what leaves the encoder is of unit norm."""
    expected = call(module, units, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = call(module, units, mask)
    for ours, exact in zip(tensors_of(result), tensors_of(expected), strict=True):
        assert (ours.float() - exact).abs().max() <= 0.05 * exact.abs().max()
    present = mask.any(dim=1)
    norms = result.embedding[present].float().norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_finite_everywhere(call, module, units, mask)
