"""Depthwise convolutions that are fast on CPUs, by two identities that are exact to rounding.

For dilated kernels or kernels wider than 3, the library's gradients are slow, above all those of
the weights; its forward pass is not.

Shape letters: `N` samples, `C` channels, `H`, `W` pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sublattices(x: Tensor) -> Tensor:
    """Split images into four sublattices of every second pixel: a dilation of 2 becomes one of 1.

    Args:
        x: (N, C, H, W), H and W even.

    Returns:
        (4 N, C, H / 2, W / 2), the sublattices as samples.
    """
    samples, channels, height, width = len(x), x.shape[1], x.shape[2] // 2, x.shape[3] // 2
    parts = x.permute(0, 2, 3, 1).reshape(samples, height, 2, width, 2, channels)
    parts = parts.permute(2, 4, 0, 1, 3, 5).reshape(4 * samples, height, width, channels)
    return parts.permute(0, 3, 1, 2)  # channels last, as is its gradient


def from_sublattices(x: Tensor) -> Tensor:
    """The inverse of `sublattices`: (4 N, C, H, W) to (N, C, 2 H, 2 W)."""
    samples, channels, height, width = len(x) // 4, *x.shape[1:]
    parts = x.permute(0, 2, 3, 1).reshape(2, 2, samples, height, width, channels)
    parts = parts.permute(2, 3, 0, 4, 1, 5).reshape(samples, 2 * height, 2 * width, channels)
    return parts.permute(0, 3, 1, 2)


def doubly_dilated(layer: nn.Module) -> bool:
    """Whether a convolution has a dilation of 2 that sublattices make unnecessary."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.dilation == (2, 2)
        and all(size % 2 for size in layer.kernel_size)
        and layer.padding == tuple(size - 1 for size in layer.kernel_size)
        and layer.stride in ((1, 1), (2, 2))
    )


def convolve(layer: nn.Conv2d, x: Tensor, undilated: bool = False) -> Tensor:
    """The output of a convolution.

    Args:
        layer: the convolution.
        x: (N, C, H, W); if ``undilated``, its `sublattices`, or every second pixel for a stride
            of 2.
        undilated: whether to run without dilation and stride.

    Returns:
        (N, C', H', W').
    """
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    if undilated:
        stride, dilation = (1, 1), (1, 1)
        padding = tuple(size // 2 for size in layer.kernel_size)
    depthwise = layer.groups == layer.in_channels == layer.out_channels
    if (
        depthwise
        and x.device.type == "cpu"
        and layer.kernel_size == (5, 5)
        and padding == (2, 2)
        and dilation == (1, 1)
        and stride == (1, 1)
        and x.shape[3] > 2
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")  # its casts do not reach the functions below
    ):
        y = _Wide5.apply(x, (layer.weight,))
        y.add_(_OfWeights.apply(layer.weight, (x,), y.shape))
        return y if layer.bias is None else y + layer.bias.view(1, -1, 1, 1)
    return F.conv2d(x, layer.weight, layer.bias, stride, padding, dilation, layer.groups)


class _Wide5(torch.autograd.Function):
    """A depthwise 5×5 convolution with padding 2, differentiated only with respect to its input.

    The weights are passed in a tuple to hide them from autograd: otherwise both gradients would be
    computed, even in a step of the mixing logits, which needs none of the weights.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, hidden: tuple[Tensor]) -> Tensor:
        ctx.save_for_backward(x, *hidden)
        return F.conv2d(x, hidden[0], None, 1, 2, 1, len(hidden[0]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, weight = ctx.saved_tensors
        return _backward(grads[0], x, weight, (2, 2), 0), None


class _OfWeights(torch.autograd.Function):
    """Zeros that pass the gradient of a 5×5 convolution to its weights."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, hidden: tuple[Tensor], shape: torch.Size) -> Tensor:
        ctx.save_for_backward(weight, *hidden)
        return weight.new_zeros(()).expand(shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        weight, x = ctx.saved_tensors
        return _weight_gradient(grads[0], x, weight), None, None


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient in three parts: the middle columns, and each outer one, two pixels away."""
    layout = torch.channels_last
    left_x, right_x = (part.contiguous(memory_format=layout) for part in (x[..., :-2], x[..., 2:]))
    left_grad, right_grad = (
        part.contiguous(memory_format=layout) for part in (grad[..., :-2], grad[..., 2:])
    )
    columns = [
        _backward(right_grad, left_x, weight[..., :1], (2, 0), 1),
        _backward(grad, x, weight[..., 1:4], (2, 1), 1),
        _backward(left_grad, right_x, weight[..., 4:], (2, 0), 1),
    ]
    return torch.cat(columns, dim=3)


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int], which: int
) -> Tensor:
    """The gradient of a depthwise convolution for its input (0) or its weights (1)."""
    mask = [which == 0, which == 1, False]
    found: Tensor = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], len(weight), mask
    )[which]
    return found
