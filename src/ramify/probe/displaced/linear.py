"""Rules for linear operations on one form of a displaced tensor, independent of the other form.

A form is the odd or the even part; an added tensor that is not displaced drops out of both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ramify.probe.displaced.tensor import DisplacedTensor
from ramify.tracing.recorder import Op

Form = Callable[[DisplacedTensor], Tensor | None]
"""Gives the odd part of a displaced tensor, or the even part; None is zero."""
Fits = Callable[[Sequence[Any]], bool]
Carry = Callable[[Op, Sequence[Any], Form, Tensor], Any]
"""(operation, arguments, form, base of the first result) -> that form of its results."""


@dataclass(frozen=True)
class LinearRule:
    """How a form passes through an operation if only arguments that `fits` allows are displaced."""

    carry: Carry
    fits: Fits


def linear_rule(op: Op, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Carry | None:
    """The rule of an operation; None if it is not linear in its displaced arguments."""
    rule = _RULES.get(plain_name(op))
    # Rules check positional arguments only.
    named = any(isinstance(value, Tensor) or is_displaced(value) for value in kwargs.values())
    return rule.carry if rule is not None and not named and rule.fits(args) else None


def plain_name(op: Op) -> str:
    """The operation's name, or that of its out-of-place form."""
    return op.name.removesuffix("_") if op.is_mutable else op.name


def is_displaced(argument: Any) -> bool:
    """Whether an argument of an operation is displaced, or contains a displaced tensor."""
    if isinstance(argument, (tuple, list)):
        return any(map(is_displaced, argument))
    return isinstance(argument, DisplacedTensor)


def scaled_convolution(
    op: Op, args: Sequence[Any], base: Tensor
) -> Callable[[Tensor], Tensor] | None:
    """A displaced convolution times one number per channel, applied to the smaller kernel."""
    if op.name != "aten::convolution" or isinstance(args[0], DisplacedTensor) or args[6]:
        return None

    def convolve(scale: Tensor) -> Tensor:
        def scaled_odd(kernel: DisplacedTensor) -> Tensor:
            factor = scale.view(-1, *([1] * (kernel.base.dim() - 1)))
            return kernel.odd * factor.to(kernel.odd.dtype)

        return _convolved(op, args, scaled_odd, base)

    return convolve


def rescaled_convolution(
    op: Op, args: Sequence[Any]
) -> Callable[[str, Tensor, Tensor], Tensor] | None:
    """A convolution of a copy, then a per-channel scale and shift, folded into kernel and bias."""
    if op.name != "aten::convolution" or is_displaced(args[1:]) or args[6]:
        return None
    x, weight, bias, *rest = args

    def convolve(which: str, scale: Tensor, shift: Tensor) -> Tensor:
        kernel = weight * scale.view(-1, *([1] * (weight.dim() - 1)))
        added = shift if bias is None else shift + scale * bias
        return op.func(x.form(which), kernel.to(weight.dtype), added.to(weight.dtype), *rest)

    return convolve


def rescaled_norm(op: Op, args: Sequence[Any]) -> Callable[[str], Tensor] | None:
    """A copy after a norm with running statistics, folded into the convolution before it."""
    name, x = plain_name(op), args[0]
    if _RULES.get(name) is not _NORM or not _NORM.fits(args) or x.rescaled is None:
        return None
    scale, bias, mean = _scale_of_norm(args), args[2], args[3]
    shift = -mean * scale if bias is None else bias - mean * scale
    return functools.partial(x.rescaled, scale=scale, shift=shift)


def _call(op: Op, *args: Any) -> Any:
    """The operation itself, in its out-of-place form."""
    func = op.func
    if op.name.endswith("_"):
        packet = getattr(torch.ops.aten, op.name.removeprefix("aten::").removesuffix("_"))
        overloads, name = packet.overloads(), func._overloadname
        # The out-of-place form of `transpose_.default` is `transpose.int`, the only one.
        func = getattr(packet, name if name in overloads else overloads[0])
    return func(*args, **op.kwargs)


def _first(op: Op, args: Sequence[Any], form: Form, _: Tensor) -> Any:
    """Moves, sums and means of the first argument: each form passes through separately."""
    moved = form(args[0])
    return None if moved is None else _call(op, moved, *args[1:])


def _padded(op: Op, args: Sequence[Any], form: Form, _: Tensor) -> Any:
    """Padding by a constant: the constant is not displaced, so the forms get zeros."""
    moved = form(args[0])
    return None if moved is None else _call(op, moved, args[1], 0.0)


def _added(op: Op, args: Sequence[Any], form: Form, base: Tensor) -> Any:
    """Sums and differences: terms that are not displaced drop out."""
    factors = (1, op.kwargs.get("alpha", 1) * (-1 if "sub" in op.name else 1))
    total: Tensor | None = None
    for argument, factor in zip(args[:2], factors, strict=True):
        moved = form(argument) if isinstance(argument, DisplacedTensor) else None
        if moved is not None:
            moved = (moved if factor == 1 else moved * factor).expand(base.shape)
            total = moved if total is None else total + moved
    return total


def _joined(op: Op, args: Sequence[Any], form: Form, _: Tensor) -> Any:
    """Concatenation: tensors that are not displaced give zeros."""
    moved = [form(piece) if isinstance(piece, DisplacedTensor) else None for piece in args[0]]
    if all(piece is None for piece in moved):
        return None
    bases = [piece.base if isinstance(piece, DisplacedTensor) else piece for piece in args[0]]
    filled = [torch.zeros_like(b) if m is None else m for m, b in zip(moved, bases, strict=True)]
    return _call(op, filled, *args[1:])


def _multiplied(op: Op, args: Sequence[Any], form: Form, _: Tensor) -> Any:
    """A product with one displaced factor."""
    place = next(n for n, argument in enumerate(args) if isinstance(argument, DisplacedTensor))
    moved = form(args[place])
    return None if moved is None else _call(op, *args[:place], moved, *args[place + 1 :])


def _convolved(op: Op, args: Sequence[Any], form: Form, base: Tensor) -> Any:
    """A convolution of a displaced input, or with a displaced kernel and bias."""
    x, weight, bias, *rest = args
    if isinstance(x, DisplacedTensor):
        moved = form(x)
        return None if moved is None else op.func(moved, weight, None, *rest)
    kernel = form(weight) if isinstance(weight, DisplacedTensor) else None
    shift = form(bias) if isinstance(bias, DisplacedTensor) else None
    if kernel is not None:
        return op.func(x, kernel, shift, *rest)
    if shift is None:
        return None
    return shift.view(-1, *([1] * (base.dim() - 2))).expand(base.shape)


def _affine(op: Op, args: Sequence[Any], form: Form, base: Tensor) -> Any:
    """A matrix product with a bias, in which one factor may be displaced."""
    bias, left, right = args[:3]
    shift = form(bias) if isinstance(bias, DisplacedTensor) else None
    out: Tensor | None = None
    if isinstance(left, DisplacedTensor) or isinstance(right, DisplacedTensor):
        moved = form(left if isinstance(left, DisplacedTensor) else right)
        if moved is not None:
            pair = (moved, right) if isinstance(left, DisplacedTensor) else (left, moved)
            out = torch.matmul(*pair) * op.kwargs.get("alpha", 1)
    if shift is None:
        return out
    shift = shift * op.kwargs.get("beta", 1)
    return shift.expand(base.shape) if out is None else out + shift


def _normalised(op: Op, args: Sequence[Any], form: Form, _: Tensor) -> Any:
    """A norm with running statistics: each channel times one number."""
    x, scale = args[0], _scale_of_norm(args)
    rest = [None] * (len(op.func._schema.returns) - 1)
    # Only the odd part of a linear tensor is needed: the scale is applied to the smaller kernel.
    if x.is_linear and x.scaled is not None:
        return x.scaled(scale), *rest
    moved = form(x)
    if moved is None:
        return None
    return moved * scale.view(1, -1, *([1] * (moved.dim() - 2))).to(moved.dtype), *rest


def _scale_of_norm(args: Sequence[Any]) -> Tensor:
    """The factor of each channel in a norm with running statistics."""
    weight, variance = args[1], args[4]
    scale = torch.rsqrt(variance + (args[7] if len(args) > 7 else args[6]))
    return scale if weight is None else scale * weight


def _only(*places: int) -> Fits:
    """Only one of these arguments is displaced."""

    def fits(args: Sequence[Any]) -> bool:
        moving = [n for n, argument in enumerate(args) if is_displaced(argument)]
        return len(moving) == 1 and moving[0] in places

    return fits


def _not_both(one: int, other: int) -> Fits:
    """At most one factor of a product is displaced."""
    return lambda args: not (is_displaced(args[one]) and is_displaced(args[other]))


def _input_or_kernel(args: Sequence[Any]) -> bool:
    """Either only the input of a convolution is displaced, or its kernel and bias."""
    return not is_displaced(args[0]) or not is_displaced(args[1:])


def _statistics_held(args: Sequence[Any]) -> bool:
    """Batch norm with running statistics, of a displaced input."""
    counted = len(args) > 7 and args[5] is True
    return _only(0)(args) and not counted and isinstance(args[4], Tensor)


_FIRST = (
    "view _unsafe_view reshape _reshape_alias transpose permute t expand squeeze unsqueeze slice "
    "select split split_with_sizes unbind clone alias detach contiguous _to_copy lift_fresh index "
    "index_select gather embedding neg sum mean avg_pool1d avg_pool2d avg_pool3d "
    "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d upsample_nearest2d "
    "upsample_bilinear2d pixel_shuffle pixel_unshuffle roll flip reflection_pad1d "
    "reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d"
).split()

_NORM = LinearRule(_normalised, _statistics_held)

_RULES = {f"aten::{name}": LinearRule(_first, _only(0)) for name in _FIRST} | {
    "aten::constant_pad_nd": LinearRule(_padded, _only(0)),
    "aten::add": LinearRule(_added, lambda args: True),
    "aten::sub": LinearRule(_added, lambda args: True),
    "aten::cat": LinearRule(_joined, lambda args: True),
    "aten::stack": LinearRule(_joined, lambda args: True),
    "aten::mul": LinearRule(_multiplied, _only(0, 1)),
    "aten::div": LinearRule(_multiplied, _only(0)),
    "aten::mm": LinearRule(_multiplied, _only(0, 1)),
    "aten::bmm": LinearRule(_multiplied, _only(0, 1)),
    "aten::mv": LinearRule(_multiplied, _only(0, 1)),
    "aten::addmm": LinearRule(_affine, _not_both(1, 2)),
    "aten::baddbmm": LinearRule(_affine, _not_both(1, 2)),
    "aten::convolution": LinearRule(_convolved, _input_or_kernel),
    "aten::native_batch_norm": _NORM,
    "aten::cudnn_batch_norm": _NORM,
    "aten::_native_batch_norm_legit_no_training": _NORM,
}
