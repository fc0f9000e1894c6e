"""What a run decides from its numbers, kept so that another run goes the same way, or another.

A router picks experts by the values that it computes, and with them how many rows each expert
gets. A grown model computes other values where a norm divides by the number of channels, and shows
the same operations on tensors of the predicted shapes only if it decides alike. And experts that
no token chose are reached by a run whose choices are moved on by some places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ramify.tracing.recorder import Recorder, Tape

Noted = Mapping[int, tuple[str, Any]]
"""Operation -> its name, and what it decided: a tensor of integers or booleans, or a number."""

_CHOICES = frozenset(f"aten::{name}" for name in ("topk", "argmax", "argmin", "max", "min"))
"""Operations that pick positions along one dimension by the values there."""

_RANKS = _CHOICES | {"aten::sort", "aten::kthvalue", "aten::median", "aten::mode"}
"""Operations that give values and the positions that these come from."""


_UNWRITTEN = frozenset(
    f"aten::{name}" for name in "empty empty_like empty_strided new_empty new_empty_strided".split()
)


class Decisions:
    """Sees every operation of a run: notes what it decided, and changes it where asked.

    A decision is what an operation makes of floating-point numbers that is none itself:
    comparisons, the positions of the largest, a value that Python reads. Memory that nothing has
    written holds zeros, so that two runs hold the same.

    Args:
        follow: the decisions of another run, taken wherever they have the same shape.
        turn: by how many places choices along a dimension are moved on.
    """

    def __init__(self, follow: Noted | None = None, turn: int = 0) -> None:
        self.noted: dict[int, tuple[str, Any]] = {}
        self._follow, self._turn, self._aligned = follow or {}, turn, True

    def of(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """The same run, whose decisions are these: to be called under a recorder."""

        def steered() -> Any:
            recorder = _get_current_dispatch_mode()
            assert isinstance(recorder, Recorder)
            recorder.steer = self
            return run()

        return steered

    def __call__(
        self, position: int, func: Any, args: tuple[Any, ...], named: Mapping[str, Any], result: Any
    ) -> Any:
        """What an operation gives: its own result, or one with another decision.

        Args:
            position: its number on the tape.
            func: the operation.
            args: its arguments.
            named: its arguments by name.
            result: what it computed.

        Returns:
            What it is to give.
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
    """The most positions that a run chose among along a dimension; 0 where it chose nothing."""
    sizes = [0]
    for op in tape.ops:
        if op.name in _CHOICES and len(op.inputs()) == 1:
            dim = _dimension(op.func, op.args, op.kwargs)
            sizes.append(tape.shape(op.args[0])[dim] if dim is not None else 0)
    return max(sizes)


def _decided(name: str, result: Any) -> Any:
    """The part of a result that is a decision; None where there is none."""
    if isinstance(result, Tensor):
        return None if result.is_floating_point() or result.is_complex() else result
    if isinstance(result, (tuple, list)):
        return result[1] if name in _RANKS and len(result) == 2 else None
    return result


def _shape(decided: Any) -> Any:
    return decided.shape if isinstance(decided, Tensor) else type(decided)


def _dimension(func: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> int | None:
    """Along which dimension an operation chooses; None where it does over all entries."""
    for place, declared in enumerate(func._schema.arguments):
        if declared.name == "dim":
            given = args[place] if place < len(args) else named.get("dim", declared.default_value)
            return int(given) if given is not None else None
    return None


def _with(decided: Any, read: Tensor, dim: int | None, result: Any) -> Any:
    """A result with another decision; values that were picked are those at the new positions."""
    if not isinstance(result, (tuple, list)):
        return decided.clone() if isinstance(decided, Tensor) else decided
    if dim is None or not read.dim():
        return result
    index = decided if decided.dim() == read.dim() else decided.unsqueeze(dim)
    values = read.gather(dim, index)
    values = values if decided.dim() == read.dim() else values.squeeze(dim)
    return values, decided.clone()
