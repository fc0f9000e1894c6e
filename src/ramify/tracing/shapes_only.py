"""Runs a model only for its shapes, without computing products with weights.

Nearly all of the time of a pass goes into matrix products and convolutions, and much of the rest
into activations. If only the operations and shapes of a run are needed, their results are replaced
by zeros. Everything else runs as usual, so the Python of a forward gets tensors of the right dtype,
shape and strides. If it reads a value that depends on such zeros, the run ends with `ValueAsked`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ramify.tracing.propagate import READS_VALUES
from ramify.tracing.recorder import leaves_of_kind, mapped, tensors_of
from ramify.tracing.rules.registry import has_own_rule
from ramify.tracing.unknown_values import result_of_unknown, untouched_zeros
from ramify.tracing.writes import storage_of

_MATRICES = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1}
"""Matrix products, and the index of their first factor."""


class ValueAsked(Exception):
    """The run depends on values that were not computed."""


class ShapesOnly:
    """Runs operations of a `Recorder` if only shapes matter.

    Args:
        model: the model that has the weights.
        unknown: tensors without values.
    """

    def __init__(self, model: nn.Module, unknown: Sequence[Tensor] = ()) -> None:
        self._weights = {storage_of(tensor) for tensor in tensors_of(model).values()}
        self._unknown = {storage_of(tensor) for tensor in unknown}
        """The memory that holds zeros instead of values, or results computed from them."""
        self._asked = False
        self._refused: Exception | None = None
        """The error of an operation that refuses tensors of these sizes, whatever their values."""

    def explains(self, error: Exception) -> bool:
        """Whether an error would also have occurred with all values computed.

        Args:
            error: the error that the run raised.

        Returns:
            True if an operation refuses the sizes of its inputs; False if the values may be the
            cause.
        """
        return error is self._refused and not self._asked

    def give_out(self, tensor: Tensor) -> None:
        """Check a tensor whose values Python will read without an operation.

        Args:
            tensor: the tensor.

        Raises:
            ValueAsked: its values were not computed.
        """
        if storage_of(tensor) in self._unknown:
            self._asked = True
            raise ValueAsked

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run an operation, or create zeros of its result's shape.

        Returns:
            The result of the operation, or zeros instead.

        Raises:
            ValueAsked: it reads a value, or has a shape, that depends on such zeros.
        """
        given = leaves_of_kind(kwargs, Tensor, leaves_of_kind(args, Tensor))
        unknown = any(storage_of(tensor) in self._unknown for tensor in given)
        result = None
        if self._asked:  # and the forward continued on another path
            raise ValueAsked
        if unknown or any(storage_of(tensor) in self._weights for tensor in given):
            if unknown and (has_own_rule(func) or self._depends_on_values(func, args)):
                self._asked = True
                raise ValueAsked
            result = _zeros_like_product(func, args)
            if unknown and result is None and not func._schema.is_mutable:
                result = result_of_unknown(func._schema.name, args, kwargs)
            unknown = unknown or result is not None
        if result is None:
            result = self._run(func, args, kwargs)
        made = leaves_of_kind(result, Tensor)
        if unknown:
            self._unknown.update(map(storage_of, made + (given if func._schema.is_mutable else [])))
        else:  # new tensors may reuse the memory of unknown ones
            self._unknown.difference_update(map(storage_of, made))
        return result

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run an operation directly; if it fails, record whether the sizes are the cause."""
        try:
            return func(*args, **kwargs)
        except Exception as error:
            self._refused = error if _refuses_sizes(func, args, kwargs) else None
            raise

    def _depends_on_values(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Whether an operation returns values to Python, or a shape that depends on values."""
        if func._schema.name == "aten::index":  # by a mask, not by indices
            masks = (
                t for t in leaves_of_kind(args[1], Tensor) if t.dtype in (torch.bool, torch.uint8)
            )
            return any(storage_of(mask) in self._unknown for mask in masks)
        return _gives_values(func)


@functools.cache
def _gives_values(func: Any) -> bool:
    """Whether more than the values of an operation's result depends on input values."""
    tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    return func._schema.name in READS_VALUES or not tags.isdisjoint(func.tags)


def _refuses_sizes(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation fails on tensors of these shapes without any values."""

    def blank(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta")

    try:
        func(*mapped(args, blank), **mapped(dict(kwargs), blank))
    except NotImplementedError:  # it needs values
        return False
    except Exception:
        return True
    return False


def _zeros_like_product(func: Any, args: tuple[Any, ...]) -> Tensor | None:
    """Zeros instead of a matrix product or convolution.

    Returns:
        The zeros; None for any other operation, and if it would or may refuse its arguments.
    """
    first = _MATRICES.get(func._schema.name)
    if first is not None:
        one, other = args[first : first + 2]
        if one.shape[-1] != other.shape[-2] or one.shape[:-2] != other.shape[:-2]:
            return None
        shape = (*one.shape[:-1], other.shape[-1])
        if first and not _broadcasts(args[0].shape, shape):
            return None
        return untouched_zeros(shape, one)
    if func._schema.name != "aten::convolution":
        return None
    source, made = args[0], _convolved(args)
    if made is None:
        return None
    form = _format(args)
    if form == torch.contiguous_format:
        return untouched_zeros(made, source)
    return source.new_zeros(made).contiguous(memory_format=form)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether a tensor of one shape can be added to one of another without changing that shape."""
    return len(shape) <= len(to) and all(
        size in (1, whole) for size, whole in zip(shape[::-1], to[::-1], strict=False)
    )


def _convolved(args: tuple[Any, ...]) -> tuple[int, ...] | None:
    """The shape of the result of `aten::convolution`.

    Returns:
        The sizes; None if it would or may refuse its arguments.
    """
    source, weight, bias, *settings, transposed, more, groups = args
    space = weight.dim() - 2
    fits = source.dim() == weight.dim() and weight.shape[0] % groups == 0
    read = weight.shape[0] if transposed else weight.shape[1] * groups
    made = weight.shape[1] * groups if transposed else weight.shape[0]
    if not fits or source.shape[1] != read or (bias is not None and len(bias) != made):
        return None
    each = [tuple(v) * (space if len(v) == 1 else 1) for v in (*settings, more)]
    sizes = []
    for size, kernel, s, p, d, m in zip(source.shape[2:], weight.shape[2:], *each, strict=True):
        reach = d * (kernel - 1)
        plain = (size + 2 * p - reach - 1) // s + 1
        sizes.append((size - 1) * s - 2 * p + reach + m + 1 if transposed else plain)
    if min(sizes, default=1) < 1:
        return None
    return (source.shape[0], made, *sizes)


def _format(args: tuple[Any, ...]) -> torch.memory_format:
    """The memory format of a convolution's result, which depends on the kernel torch chooses."""
    source, weight, bias, stride, padding, dilation, transposed, more, groups = args
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    last = formats.get(source.dim(), torch.contiguous_format)
    if not any(t.is_contiguous(memory_format=last) and not t.is_contiguous() for t in args[:2]):
        return torch.contiguous_format
    settings = (stride, padding, dilation, transposed, more, groups, None)
    kernel = torch._C._select_conv_backend(source, weight, bias, *settings)
    return torch._C._conv_determine_backend_memory_format(source, weight, kernel)
