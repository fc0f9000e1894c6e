"""Depthwise convolutions by identities: outputs and all derivatives are torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ramify.cells.depthwise import convolve, doubly_dilated, from_sublattices, sublattices


def depthwise(kernel: int, dilation: int = 1, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups=4, bias=bias).double()


def check(layer: nn.Conv2d, found: torch.Tensor, x: torch.Tensor) -> None:
    expected = layer(x)
    assert (found - expected).abs().max() < 1e-13
    grad = torch.randn_like(expected)
    inputs = [x, *layer.parameters()]
    wanted = torch.autograd.grad(expected, inputs, grad)
    for a, b in zip(torch.autograd.grad(found, inputs, grad), wanted, strict=True):
        assert (a - b).abs().max() < 1e-12


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (3, 3), (5, 2), (1, 1)])
def test_kernels_of_5(stride, size):
    x = torch.randn(3, 4, *size, dtype=torch.float64, requires_grad=True)
    layer = depthwise(5, stride=stride, bias=True)
    check(layer, convolve(layer, x), x)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(8, 8), (4, 6)])
def test_a_dilation_of_2_on_sublattices(kernel, size):
    x = torch.randn(3, 4, *size, dtype=torch.float64, requires_grad=True)
    layer = depthwise(kernel, dilation=2)
    assert doubly_dilated(layer)
    check(layer, from_sublattices(convolve(layer, sublattices(x), undilated=True)), x)


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_a_dilation_and_a_stride_of_2_on_every_second_pixel(size):
    x = torch.randn(3, 4, *size, dtype=torch.float64, requires_grad=True)
    layer = depthwise(5, dilation=2, stride=2)
    check(layer, convolve(layer, x[:, :, ::2, ::2], undilated=True), x)


def test_autocast_on_the_cpu():
    layer, x = depthwise(5).float(), torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = convolve(layer, x), layer(x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, wanted)
    grads = [torch.autograd.grad(y.float().sum(), layer.weight)[0] for y in (found, wanted)]
    assert torch.equal(*grads)


def test_sublattices_there_and_back():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    assert torch.equal(sublattices(x)[2 * 2 + 1], x[1, :, 1::2, 0::2])
    assert torch.equal(from_sublattices(sublattices(x)), x)


def test_second_derivatives():
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    layer = nn.Conv2d(2, 2, 5, padding=2, groups=2, bias=False).double()

    def run(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(Convolve(layer), {"layer.weight": weight}, (x,)).sin()

    assert torch.autograd.gradgradcheck(run, (x, layer.weight))


class Convolve(nn.Module):
    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return convolve(self.layer, x)


class Backward(TorchDispatchMode):
    """Counts the gradients of convolutions to their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.to_weights = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.to_weights += args[-1][1]
        return func(*args, **(kwargs or {}))


def test_weights_that_are_not_asked_for_take_no_work():
    layer = depthwise(5)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    y = convolve(layer, x).sum()
    with Backward() as counter:
        torch.autograd.grad(y, x, retain_graph=True)
        assert counter.to_weights == 0
        torch.autograd.grad(y, layer.weight)
        assert counter.to_weights == 3
