"""Curvature at the kinks of piecewise-linear activations, which have none of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Slope: TypeAlias = float | Tensor
Kinks: TypeAlias = tuple[Slope, list[tuple[Slope, Slope]]]
"""Slope at minus infinity, and (place, jump of the slope) of each kink."""


def kinks_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kinks | None:
    """The kinks of a piecewise-linear ATen operation; None for any other operation."""
    found = _KINKS.get(name.removeprefix("aten::").removesuffix("_"))
    return found(args, kwargs) if found else None


def _leaky(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kinks:
    slope = float(_argument(args, kwargs, 1, "negative_slope", 0.01))
    return slope, [(0.0, 1.0 - slope)]


def _threshold(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kinks | None:
    place, below = float(args[1]), float(args[2])
    return (0.0, [(place, 1.0)]) if place == below else None  # else the value jumps


def _between(args: Sequence[Any], kwargs: Mapping[str, Any], low: Any, high: Any) -> Kinks | None:
    low = _argument(args, kwargs, 1, "min", low)
    high = _argument(args, kwargs, 2, "max", high)
    if not (_is_constant(args[0], low) and _is_constant(args[0], high)):
        return None
    steps: list[tuple[Slope, Slope]] = [] if low is None else [(low, 1.0)]
    start = 0.0 if steps else 1.0
    steps += [] if high is None else [(high, -1.0)]
    return start, steps


def _is_constant(x: Tensor, bound: Any) -> bool:
    """Whether a bound is a number, or a tensor without a gradient that broadcasts to `x`."""
    if not isinstance(bound, Tensor):
        return True
    broadcast = torch.broadcast_shapes(x.shape, bound.shape)
    return not bound.requires_grad and broadcast == x.shape


def _clamp_min(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kinks | None:
    return _between([args[0], args[1]], kwargs, None, None)


def _clamp_max(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kinks | None:
    return _between([args[0], None, args[1]], kwargs, None, None)


def _softshrink(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kinks:
    place = float(_argument(args, kwargs, 1, "lambd", 0.5))
    return 1.0, [(-place, -1.0), (place, 1.0)]


def _argument(
    args: Sequence[Any], kwargs: Mapping[str, Any], index: int, name: str, default: Any
) -> Any:
    return args[index] if len(args) > index else kwargs.get(name, default)


_KINKS: dict[str, Callable[[Sequence[Any], Mapping[str, Any]], Kinks | None]] = {
    "relu": lambda args, kwargs: (0.0, [(0.0, 1.0)]),
    "relu6": lambda args, kwargs: (0.0, [(0.0, 1.0), (6.0, -1.0)]),
    "abs": lambda args, kwargs: (-1.0, [(0.0, 2.0)]),
    "hardsigmoid": lambda args, kwargs: (0.0, [(-3.0, 1 / 6), (3.0, -1 / 6)]),
    "_prelu_kernel": lambda args, kwargs: (args[1], [(0.0, 1.0 - args[1])]),
    "leaky_relu": _leaky,
    "threshold": _threshold,
    "hardtanh": lambda args, kwargs: _between(args, kwargs, -1.0, 1.0),
    "clamp": lambda args, kwargs: _between(args, kwargs, None, None),
    "clamp_min": _clamp_min,
    "clamp_max": _clamp_max,
    "softshrink": _softshrink,
    "maximum": _clamp_min,
    "minimum": _clamp_max,
}


def smoothed(value: Tensor, x: Tensor, kinks: Kinks, beta: float) -> Tensor:
    r"""`value` with the activation's true slope, and the curvature of a softplus at its kinks.

    For ReLU the second derivative is :math:`\beta s (1 - s)`,
    :math:`s = \mathrm{sigmoid}(\beta x)`; S2D's code uses β = 3. Value and first derivative stay
    exact.

    Args:
        value: the activation's value.
        x: its argument, of the same shape.
        kinks: the positions at which the slope jumps, and by how much.
        beta: sharpness of the softplus.

    Returns:
        A tensor of the same shape, twice differentiable in `x`.
    """
    at = x.detach()
    slope: Tensor = torch.zeros_like(at) + kinks[0]
    curve = torch.zeros_like(at)
    for place, jump in kinks[1]:
        s = torch.sigmoid(beta * (at - place))
        slope = slope + jump * (at > place).to(at.dtype)
        curve = curve + jump * beta * s * (1 - s)
    return _Value.apply(x, value.detach(), _Slope.apply(x, slope, curve))


def softened(value: Tensor, x: Tensor, kinks: Kinks, beta: float) -> Tensor:
    r"""`value` with the slope of a softplus at its kinks, for inputs that start on a kink.

    At the kink of a ReLU the slope is 1/2, that of its odd part at any distance:
    :math:`\max(x, 0) = x/2 + |x|/2`.

    Args:
        value: the activation's value.
        x: its argument, of the same shape.
        kinks: the positions at which the slope jumps, and by how much.
        beta: sharpness of the softplus.

    Returns:
        A tensor of the same shape, once differentiable in `x`.
    """
    at = x.detach()
    slope: Tensor = torch.zeros_like(at) + kinks[0]
    for place, jump in kinks[1]:
        slope = slope + jump * torch.sigmoid(beta * (at - place))
    return _Value.apply(x, value.detach(), slope)


class _Slope(torch.autograd.Function):
    """A slope given as numbers, with derivative `curve`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor, curve: Tensor) -> Tensor:
        ctx.save_for_backward(curve)
        return slope

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.saved_tensors[0], None, None


class _Value(torch.autograd.Function):
    """A value given as numbers, with derivative `slope`, which may have its own derivative.

    This takes two multiplications and two saved tensors; a polynomial of autograd's own operations
    would take six of each.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.saved_tensors[0], None, None
