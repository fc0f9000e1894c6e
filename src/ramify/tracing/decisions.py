"""Records data-dependent decisions of a run, so that another run can repeat or change them.

A router chooses experts from computed values, which determines the number of rows of each expert.
In a grown model the values may differ, as a norm divides by the number of channels; it runs the
same operations on tensors of the predicted shapes only if the decisions are repeated. And a run
with shifted choices reaches experts that no token chose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ramify.tracing.recorder import Recorder, Tape

Noted = Mapping[int, tuple[str, Any]]
"""Operation -> its name and decision: a tensor of integers or booleans, or a number."""

_CHOICES = frozenset(f"aten::{name}" for name in ("topk", "argmax", "argmin", "max", "min"))
"""Operations that choose positions along one dimension by their values."""

_RANKS = _CHOICES | {"aten::sort", "aten::kthvalue", "aten::median", "aten::mode"}
"""Operations that return values and their positions."""


_UNWRITTEN = frozenset(
    f"aten::{name}" for name in "empty empty_like empty_strided new_empty new_empty_strided".split()
)


class Decisions:
    """Records the decision of every operation of a run, and optionally replaces it.

    A decision is a result computed from floating-point numbers that is not itself floating-point:
    comparisons, the positions of the largest, a value that Python reads. Uninitialised memory is
    set to zeros, so that two runs agree.

    Args:
        follow: the decisions of another run, used wherever they have the same shape.
        turn: the number of positions by which choices along a dimension are shifted.
    """

    def __init__(self, follow: Noted | None = None, turn: int = 0) -> None:
        self.noted: dict[int, tuple[str, Any]] = {}
        self._follow, self._turn, self._aligned = follow or {}, turn, True

    def of(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """The same run with these decisions, to be called under a recorder."""

        def steered() -> Any:
            recorder = _get_current_dispatch_mode()
            assert isinstance(recorder, Recorder)
            recorder.steer = self
            return run()

        return steered

    def __call__(
        self, position: int, func: Any, args: tuple[Any, ...], named: Mapping[str, Any], result: Any
    ) -> Any:
        """The result to use for an operation: its own, or one with another decision.

        Args:
            position: its number on the tape.
            func: the operation.
            args: its positional arguments.
            named: its keyword arguments.
            result: its own result.

        Returns:
            The result to use.
        """
        read, name = args[0] if args else None, func._schema.name
        if name in _UNWRITTEN and isinstance(result, Tensor):
            return result.zero_()
        if not isinstance(read, Tensor) or not read.is_floating_point():
            return result
        decided = _decided(name, result)
        if decided is None or func._schema.is_mutable:
            return result
        known = self._follow.get(position) if self._aligned else None
        if known is not None:
            self._aligned = known[0] == name
            if self._aligned and _shape(known[1]) == _shape(decided):
                decided = known[1]
                result = _with(decided, read, _dimension(func, args, named), result)
        elif self._turn and name in _CHOICES:
            dim = _dimension(func, args, named)
            if dim is not None:
                decided = (decided + self._turn) % read.shape[dim]
                result = _with(decided, read, dim, result)
        self.noted[position] = name, decided.clone() if isinstance(decided, Tensor) else decided
        return result


def choices_of(tape: Tape) -> int:
    """The largest number of positions that a run chose among; 0 if it chose nothing."""
    sizes = [0]
    for op in tape.ops:
        if op.name in _CHOICES and len(op.inputs()) == 1:
            dim = _dimension(op.func, op.args, op.kwargs)
            sizes.append(tape.shape(op.args[0])[dim] if dim is not None else 0)
    return max(sizes)


def _decided(name: str, result: Any) -> Any:
    """The part of a result that is a decision; None if there is none."""
    if isinstance(result, Tensor):
        return None if result.is_floating_point() or result.is_complex() else result
    if isinstance(result, (tuple, list)):
        return result[1] if name in _RANKS and len(result) == 2 else None
    return result


def _shape(decided: Any) -> Any:
    return decided.shape if isinstance(decided, Tensor) else type(decided)


def _dimension(func: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> int | None:
    """The dimension along which an operation chooses; None if it chooses among all elements."""
    for place, declared in enumerate(func._schema.arguments):
        if declared.name == "dim":
            given = args[place] if place < len(args) else named.get("dim", declared.default_value)
            return int(given) if given is not None else None
    return None


def _with(decided: Any, read: Tensor, dim: int | None, result: Any) -> Any:
    """A result with another decision; its values are those at the new positions."""
    if not isinstance(result, (tuple, list)):
        return decided.clone() if isinstance(decided, Tensor) else decided
    if dim is None or not read.dim():
        return result
    index = decided if decided.dim() == read.dim() else decided.unsqueeze(dim)
    values = read.gather(dim, index)
    values = values if decided.dim() == read.dim() else values.squeeze(dim)
    return values, decided.clone()
