"""Replaces results for large tensors of unknown values by zeros in unwritten memory.

If only the shapes of a run matter, computing an activation, norm or copy of unknown values only
costs time. Each operation here returns a tensor like its input, or of a shape given by its
arguments. Cases that it might refuse, or give other strides, are left to the operation itself.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

LARGE = 2**18
"""Tensors of fewer bytes are created or computed directly."""
_PRIVATE: dict[str, int] = {"flags": mmap.MAP_PRIVATE} if hasattr(mmap, "MAP_PRIVATE") else {}


def untouched_zeros(shape: Sequence[int], like: Tensor) -> Tensor:
    """Contiguous zeros of the dtype and device of a tensor.

    Large ones on the CPU are memory that the operating system does not allocate until it is
    written; the C library might return memory that was written and freed.

    Args:
        shape: the sizes.
        like: the tensor.

    Returns:
        The zeros.
    """
    size = math.prod(shape) * like.element_size()
    if size < LARGE or like.device.type != "cpu":
        return like.new_zeros(shape)
    blank = torch.frombuffer(mmap.mmap(-1, size, **_PRIVATE), dtype=torch.uint8)
    return blank.view(like.dtype).view(tuple(shape))


def result_of_unknown(name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
    """The result of an operation on unknown values, without computing it.

    Args:
        name: the operation.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Returns:
        Zeros of the right shape and strides; None if the operation must be computed.
    """
    if name in _LIKE_FIRST and _is_plain(args[0]):
        return _like(args[0])
    if name in _SLOW:
        return torch.zeros_like(args[0]) if args[0].is_floating_point() else None
    rule = _RULES.get(name)
    return rule(*args, **kwargs) if rule is not None and not set(kwargs) - _NAMED else None


def _is_plain(*tensors: Any) -> bool:
    """Whether these are contiguous floats of one dtype, with a large first tensor."""
    first = tensors[0]
    large = first.is_floating_point() and first.numel() * first.element_size() >= LARGE
    return large and all(t.dtype == first.dtype and t.is_contiguous() for t in tensors)


def _like(tensor: Tensor) -> Tensor:
    return untouched_zeros(tensor.shape, tensor)


def _clone(source: Tensor, *, memory_format: Any = None) -> Tensor | None:
    if source.numel() * source.element_size() < LARGE or not source.is_floating_point():
        return None
    rows = source.is_contiguous() if memory_format in (None, torch.preserve_format) else False
    return _like(source) if rows or memory_format == torch.contiguous_format else None


def _joined(one: Any, other: Any) -> Tensor | None:
    """The result of an elementwise sum, difference, product or quotient."""
    if not isinstance(other, Tensor):
        return _like(one) if isinstance(other, (int, float)) and _is_plain(one) else None
    whole, part = (one, other) if one.numel() >= other.numel() else (other, one)
    fits = part.dim() <= whole.dim() and all(
        size in (1, full) for size, full in zip(part.shape[::-1], whole.shape[::-1], strict=False)
    )
    return _like(whole) if fits and _is_plain(whole, part) else None


def _softmax(source: Tensor, dim: int, other_dtype: Any = None) -> Tensor | None:
    fits = -source.dim() <= dim < source.dim() and not other_dtype
    return _like(source) if fits and _is_plain(source) else None


def _layer_norm(
    source: Tensor, over: Sequence[int], weight: Any, bias: Any, _: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    given = [t for t in (weight, bias) if t is not None]
    fits = all(tuple(t.shape) == tuple(over) for t in given) and len(over) > 0
    whole = source.dtype in (torch.float32, torch.float64) and _is_plain(source, *given)
    if not fits or not whole or tuple(source.shape[-len(over) :]) != tuple(over):
        return None
    mean = source.new_zeros((*source.shape[: -len(over)], *[1] * len(over)))
    return _like(source), mean, mean.clone()


def _batch_norm(
    source: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    given = [t for t in (weight, bias, mean, var) if t is not None]
    fits = source.dim() > 1 and all(tuple(t.shape) == (source.shape[1],) for t in given)
    whole = source.dtype in (torch.float32, torch.float64) and _is_plain(source, *given)
    if not fits or not whole or (not training and (mean is None or var is None)):
        return None
    kept = source.shape[1] if training else 0
    return _like(source), source.new_zeros(kept), source.new_zeros(kept)


def _pad(source: Tensor, pad: Sequence[int], value: float = 0) -> Tensor | None:
    before, after = pad[-2::-2], pad[::-2]
    if min(pad) < 0 or len(pad) % 2 or len(before) > source.dim() or not _is_plain(source):
        return None
    first = source.dim() - len(before)
    more = [0] * first + [a + b for a, b in zip(before, after, strict=True)]
    return untouched_zeros([n + m for n, m in zip(source.shape, more, strict=True)], source)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = max(tensors, key=Tensor.numel)
    rank = first.dim()
    if not -rank <= dim < rank or not _is_plain(first, *tensors):
        return None
    dim %= rank
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if any((*s[:dim], *s[dim + 1 :]) != (*shapes[0][:dim], *shapes[0][dim + 1 :]) for s in shapes):
        return None
    size = sum(shape[dim] for shape in shapes) if all(len(s) == rank for s in shapes) else 0
    return untouched_zeros((*shapes[0][:dim], size, *shapes[0][dim + 1 :]), first) if size else None


def _grid_sample(source: Tensor, grid: Tensor, *_: Any) -> Tensor | None:
    n, h, w, two = grid.shape if grid.dim() == 4 else (0, 0, 0, 0)
    fits = source.dim() == 4 and (n, two) == (source.shape[0], 2) and min(source.shape) > 0
    if not fits or source.dtype != grid.dtype or not source.is_floating_point():
        return None
    return untouched_zeros((n, source.shape[1], h, w), source)


_SLOW = frozenset(f"aten::{n}" for n in "elu erf gelu hardswish mish silu tanh".split())
"""Slow elementwise operations that keep dtype and strides of floats."""
_LIKE_FIRST = _SLOW | frozenset(
    f"aten::{n}" for n in "exp hardsigmoid hardtanh leaky_relu relu sigmoid".split()
)
"""Operations that return a tensor like their input."""
_NAMED = frozenset({"memory_format"})
_RULES: dict[str, Callable[..., Any]] = {
    "aten::clone": _clone,
    "aten::add": _joined,
    "aten::sub": _joined,
    "aten::mul": _joined,
    "aten::div": _joined,
    "aten::_softmax": _softmax,
    "aten::_safe_softmax": _softmax,
    "aten::native_layer_norm": _layer_norm,
    "aten::native_batch_norm": _batch_norm,
    "aten::constant_pad_nd": _pad,
    "aten::cat": _cat,
    "aten::grid_sampler_2d": _grid_sample,
}
