"""Depthwise convolutions as a processor runs them best: two identities, exact to rounding.

Where kernels are wider than 3 or dilated, the library's gradients are slow, those of weights above
all; the forward is not.

Shape letters: `N` samples, `C` channels, `H`, `W` pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sublattices(x: Tensor) -> Tensor:
    """The four sub-lattices of every second pixel, as samples: a dilation of 2 becomes one of 1.

    Args:
        x: (N, C, H, W), H and W even.

    Returns:
        (4 N, C, H / 2, W / 2).
    """
    samples, channels, height, width = len(x), x.shape[1], x.shape[2] // 2, x.shape[3] // 2
    parts = x.permute(0, 2, 3, 1).reshape(samples, height, 2, width, 2, channels)
    parts = parts.permute(2, 4, 0, 1, 3, 5).reshape(4 * samples, height, width, channels)
    return parts.permute(0, 3, 1, 2)  # channels last, and so is its gradient


def from_sublattices(x: Tensor) -> Tensor:
    """The inverse of `sublattices`: (4 N, C, H, W) to (N, C, 2 H, 2 W)."""
    samples, channels, height, width = len(x) // 4, *x.shape[1:]
    parts = x.permute(0, 2, 3, 1).reshape(2, 2, samples, height, width, channels)
    parts = parts.permute(2, 3, 0, 4, 1, 5).reshape(samples, 2 * height, 2 * width, channels)
    return parts.permute(0, 3, 1, 2)


def doubly_dilated(layer: nn.Module) -> bool:
    """Whether a convolution has a dilation of 2 that its sub-lattices can do without."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.dilation == (2, 2)
        and all(size % 2 for size in layer.kernel_size)
        and layer.padding == tuple(size - 1 for size in layer.kernel_size)
        and layer.stride in ((1, 1), (2, 2))
    )


def convolve(layer: nn.Conv2d, x: Tensor, undilated: bool = False) -> Tensor:
    """What a convolution puts out.

    Args:
        layer: the convolution.
        x: (N, C, H, W), or, where undilated, its `sublattices`, or every second pixel for a stride
            of 2.
        undilated: whether the dilation is left out, and the stride.

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
        and not torch.is_autocast_enabled("cpu")  # whose casts the functions below do not see
    ):
        y = _Wide5.apply(x, (layer.weight,))
        y.add_(_OfWeights.apply(layer.weight, (x,), y.shape))
        return y if layer.bias is None else y + layer.bias.view(1, -1, 1, 1)
    return F.conv2d(x, layer.weight, layer.bias, stride, padding, dilation, layer.groups)


class _Wide5(torch.autograd.Function):
    """A depthwise 5×5 convolution of padding 2, differentiated by its input alone.

    The weights come in a tuple, unseen, since a function of both would find both gradients even
    where a step of the mixing logits asks for none of the weights.
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
    """Zeros that bring the gradient of a 5×5 convolution to its weights."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, hidden: tuple[Tensor], shape: torch.Size) -> Tensor:
        ctx.save_for_backward(weight, *hidden)
        return weight.new_zeros(()).expand(shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        weight, x = ctx.saved_tensors
        return _weight_gradient(grads[0], x, weight), None, None


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """In three parts: the columns in the middle, and each outer one, on pixels two columns away."""
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
    """The gradient of a depthwise convolution to its input (0) or its weights (1)."""
    mask = [which == 0, which == 1, False]
    found: Tensor = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], len(weight), mask
    )[which]
    return found
