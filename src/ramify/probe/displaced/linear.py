"""What linear operations do to one part of a twin, without looking at the rest.

A part is the odd or the even one; what adds to a tensor without moving drops out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ramify.probe.displaced.tensor import Twin
from ramify.tracing.recorder import Op

Part = Callable[[Twin], Tensor | None]
Fits = Callable[[Sequence[Any]], bool]
Carry = Callable[[Op, Sequence[Any], Part, Tensor], Any]
"""(operation, arguments, part, base of the first result) -> that part of its results."""


@dataclass(frozen=True)
class Linear:
    """A rule: how a part passes an operation, for arguments among which only some move."""

    carry: Carry
    fits: Fits


def rule_of(op: Op, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Carry | None:
    """How a part passes an operation; None where it is not linear in what moves."""
    rule = _RULES.get(plain_name(op))
    named = any(isinstance(value, Tensor) or moves(value) for value in kwargs.values())
    return rule.carry if rule is not None and not named and rule.fits(args) else None


def plain_name(op: Op) -> str:
    """The operation's name, or that of its form that does not write."""
    return op.name.removesuffix("_") if op.func._schema.is_mutable else op.name


def moves(argument: Any) -> bool:
    """Whether an argument of an operation is a twin, or holds one."""
    if isinstance(argument, (tuple, list)):
        return any(map(moves, argument))
    return isinstance(argument, Twin)


def scaled(op: Op, args: Sequence[Any], base: Tensor) -> Callable[[Tensor], Tensor] | None:
    """A displaced convolution times one number a channel: the kernel takes it, being smaller."""
    if op.name != "aten::convolution" or isinstance(args[0], Twin) or args[6]:
        return None

    def convolve(scale: Tensor) -> Tensor:
        def part(twin: Twin) -> Tensor:
            factor = scale.view(-1, *([1] * (twin.base.dim() - 1)))
            return twin.odd * factor.to(twin.odd.dtype)

        return _convolved(op, args, part, base)

    return convolve


def _call(op: Op, *args: Any) -> Any:
    """The operation itself, in its form that does not write."""
    func = op.func
    if op.name.endswith("_"):
        packet = getattr(torch.ops.aten, op.name.removeprefix("aten::").removesuffix("_"))
        func = getattr(packet, func._overloadname)
    return func(*args, **op.kwargs)


def _first(op: Op, args: Sequence[Any], part: Part, _: Tensor) -> Any:
    moved = part(args[0])
    return None if moved is None else _call(op, moved, *args[1:])


def _padded(op: Op, args: Sequence[Any], part: Part, _: Tensor) -> Any:
    moved = part(args[0])
    return None if moved is None else _call(op, moved, args[1], 0.0)


def _added(op: Op, args: Sequence[Any], part: Part, base: Tensor) -> Any:
    factors = (1, op.kwargs.get("alpha", 1) * (-1 if "sub" in op.name else 1))
    total: Tensor | None = None
    for argument, factor in zip(args[:2], factors, strict=True):
        moved = part(argument) if isinstance(argument, Twin) else None
        if moved is not None:
            moved = (moved if factor == 1 else moved * factor).expand(base.shape)
            total = moved if total is None else total + moved
    return total


def _joined(op: Op, args: Sequence[Any], part: Part, _: Tensor) -> Any:
    moved = [part(piece) if isinstance(piece, Twin) else None for piece in args[0]]
    if all(piece is None for piece in moved):
        return None
    bases = [piece.base if isinstance(piece, Twin) else piece for piece in args[0]]
    filled = [torch.zeros_like(b) if m is None else m for m, b in zip(moved, bases, strict=True)]
    return _call(op, filled, *args[1:])


def _multiplied(op: Op, args: Sequence[Any], part: Part, _: Tensor) -> Any:
    place = next(n for n, argument in enumerate(args) if isinstance(argument, Twin))
    moved = part(args[place])
    return None if moved is None else _call(op, *args[:place], moved, *args[place + 1 :])


def _convolved(op: Op, args: Sequence[Any], part: Part, base: Tensor) -> Any:
    x, weight, bias, *rest = args
    if isinstance(x, Twin):
        moved = part(x)
        return None if moved is None else op.func(moved, weight, None, *rest)
    kernel = part(weight) if isinstance(weight, Twin) else None
    shift = part(bias) if isinstance(bias, Twin) else None
    out = None if kernel is None else op.func(x, kernel, None, *rest)
    if shift is None:
        return out
    shift = shift.view(-1, *([1] * (base.dim() - 2)))
    return shift.expand(base.shape) if out is None else out + shift


def _affine(op: Op, args: Sequence[Any], part: Part, base: Tensor) -> Any:
    bias, left, right = args[:3]
    shift = part(bias) if isinstance(bias, Twin) else None
    out: Tensor | None = None
    if isinstance(left, Twin) or isinstance(right, Twin):
        moved = part(left if isinstance(left, Twin) else right)
        if moved is not None:
            pair = (moved, right) if isinstance(left, Twin) else (left, moved)
            out = torch.matmul(*pair) * op.kwargs.get("alpha", 1)
    if shift is None:
        return out
    shift = shift * op.kwargs.get("beta", 1)
    return shift.expand(base.shape) if out is None else out + shift


def _normalised(op: Op, args: Sequence[Any], part: Part, _: Tensor) -> Any:
    x, weight, variance = args[0], args[1], args[4]
    eps = args[7] if len(args) > 7 else args[6]
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    rest = [None] * (len(op.func._schema.returns) - 1)
    if x.is_straight and x.scaled is not None:  # asked for its odd part: it has no other
        return x.scaled(scale), *rest
    moved = part(x)
    if moved is None:
        return None
    return moved * scale.view(1, -1, *([1] * (moved.dim() - 2))).to(moved.dtype), *rest


def _only(*places: int) -> Fits:
    """Nothing moves but one of these arguments."""

    def fits(args: Sequence[Any]) -> bool:
        moving = [n for n, argument in enumerate(args) if moves(argument)]
        return len(moving) == 1 and moving[0] in places

    return fits


def _not_both(one: int, other: int) -> Fits:
    """The factors of a product do not both move."""
    return lambda args: not (moves(args[one]) and moves(args[other]))


def _input_or_kernel(args: Sequence[Any]) -> bool:
    """A convolution whose input moves alone, or its kernel and bias."""
    return not moves(args[0]) or not moves(args[1:])


def _statistics_held(args: Sequence[Any]) -> bool:
    """Batch norm by its running statistics, of a moving input."""
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

_RULES = {f"aten::{name}": Linear(_first, _only(0)) for name in _FIRST} | {
    "aten::constant_pad_nd": Linear(_padded, _only(0)),
    "aten::add": Linear(_added, lambda args: True),
    "aten::sub": Linear(_added, lambda args: True),
    "aten::cat": Linear(_joined, lambda args: True),
    "aten::stack": Linear(_joined, lambda args: True),
    "aten::mul": Linear(_multiplied, _only(0, 1)),
    "aten::div": Linear(_multiplied, _only(0)),
    "aten::mm": Linear(_multiplied, _only(0, 1)),
    "aten::bmm": Linear(_multiplied, _only(0, 1)),
    "aten::mv": Linear(_multiplied, _only(0, 1)),
    "aten::addmm": Linear(_affine, _not_both(1, 2)),
    "aten::baddbmm": Linear(_affine, _not_both(1, 2)),
    "aten::convolution": Linear(_convolved, _input_or_kernel),
    "aten::native_batch_norm": Linear(_normalised, _statistics_held),
    "aten::cudnn_batch_norm": Linear(_normalised, _statistics_held),
    "aten::_native_batch_norm_legit_no_training": Linear(_normalised, _statistics_held),
}
