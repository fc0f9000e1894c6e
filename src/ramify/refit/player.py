"""Replay a recorded run operation by operation with the current weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ramify.errors import RamifyError
from ramify.tracing.recorder import Op, Ref, Tape, leaves_of_kind, mapped


class Player:
    """The replay of one tape; values are freed after their last use.

    Tensors computed from parameters only are recomputed at each use, so that a parameter may change
    between two operations.

    Args:
        tape: the tape to replay, recorded with its random draws.
        tensors: parameters and buffers by name.
    """

    def __init__(self, tape: Tape, tensors: Mapping[str, Tensor]) -> None:
        self.tape = tape
        self._tensors = tensors
        self._at = 0
        writes = any(op.func._schema.is_mutable for op in tape.ops)
        self._env = {i: t.clone() if writes else t for i, t in tape.constants.items()}
        self._weights: dict[int, int] = {}
        """Tensors computed from parameters only, and the operations that compute them."""
        written = _written(tape)
        for position, op in enumerate(tape.ops):
            made_of = op.inputs()
            pure = made_of and all(self._is_weight(ref) for ref in made_of)
            if pure and written.isdisjoint(op.results()):
                self._weights.update({ref.index: position for ref in op.results()})
        self._last: dict[int, int] = {}
        for position, op in enumerate(tape.ops):
            for ref in (*op.inputs(), *op.results()):
                self._last[ref.index] = position
        self._last.update({ref.index: len(tape.ops) for ref in tape.outputs})

    def _is_weight(self, ref: Ref) -> bool:
        return ref.index in self.tape.names or ref.index in self._weights

    def value(self, ref: Ref) -> Tensor:
        """The value of a tensor for the next operation."""
        name = self.tape.names.get(ref.index)
        if name is not None:
            return self._tensors[name].detach()
        return self._from_weights(ref) if ref.index in self._weights else self._env[ref.index]

    def _from_weights(self, ref: Ref) -> Tensor:
        """Compute a tensor from the current parameters, each operation once."""
        needed: set[int] = set()
        left = [ref]
        while left:
            position = self._weights.get(left.pop().index)
            if position is not None and position not in needed:
                needed.add(position)
                left += self.tape.ops[position].inputs()
        made: dict[int, Tensor] = {}
        for position in sorted(needed):
            op = self.tape.ops[position]
            results = leaves_of_kind(self._run(op, made), Tensor)
            made.update(zip((r.index for r in op.results()), results, strict=True))
        return made[ref.index]

    def fork(self) -> Player:
        """A copy that can continue differently; existing values must not be changed in place."""
        other = copy.copy(self)
        other._env = dict(self._env)
        return other

    def onto(self, tape: Tape) -> Player:
        """A replay of another tape, identical so far, from here; this replay can continue too."""
        other = Player(tape, self._tensors)
        other._at = self._at
        writes = any(op.func._schema.is_mutable for op in tape.ops[self._at :])
        other._env.update(copy.deepcopy(self._env) if writes else self._env)
        return other

    def replace(self, ref: Ref, tensor: Tensor) -> None:
        """Replace the value of a tensor for later operations."""
        self._env[ref.index] = tensor

    def advance(self, position: int) -> None:
        """Replay until just before the operation of this number."""
        with torch.no_grad():
            while self._at < position:
                self._step()

    def _step(self) -> None:
        position, op = self._at, self.tape.ops[self._at]
        self._at += 1
        results = op.results()
        if all(ref.index in self._weights for ref in results) and results:
            return
        if position in self.tape.drawn:
            made = self.tape.drawn[position]
            if op.func._schema.is_mutable:
                made = [self.value(op.inputs()[0]).copy_(made[0])]
        else:
            made = self._made(op)
        for ref, tensor in zip(results, made, strict=True):
            self._env[ref.index] = tensor
        for ref in {*op.inputs(), *results}:
            if self._last[ref.index] == position:
                self._env.pop(ref.index, None)

    def result(self, position: int, ref: Ref) -> Tensor:
        """Replay up to and including the operation of this number, and return its output."""
        if ref.index in self._weights:
            self.advance(position + 1)
            return self.value(ref)
        self.advance(position)
        last, self._last[ref.index] = self._last[ref.index], len(self.tape.ops)
        self.advance(position + 1)
        made = self._env[ref.index]
        self._last[ref.index] = last
        if last <= position:
            del self._env[ref.index]
        return made

    def _made(self, op: Op) -> list[Tensor]:
        """The output of an operation; an error if the data now choose to run another one."""
        try:
            made = leaves_of_kind(self._run(op), Tensor)
            if len(made) == len(op.results()):
                return made
            reason = f"{op.name} makes {len(made)} tensors in place of {len(op.results())}"
        except (IndexError, RuntimeError) as error:
            if not self._chooses:
                raise
            reason = f"{op.name}: {error}"
        raise RamifyError(
            "the forward chooses by its data what it runs (a loop over the experts that were hit, "
            f"say), and with other weights it chooses otherwise ({reason}): compute it another way "
            'meanwhile (model.set_experts_implementation("batched_mm")), or give refit=False'
        )

    @cached_property
    def _chooses(self) -> bool:
        """Whether the sizes of some outputs depend on the data."""
        return any(torch.Tag.dynamic_output_shape in op.func.tags for op in self.tape.ops)

    def _run(self, op: Op, made: Mapping[int, Tensor] | None = None) -> Any:
        """Run an operation on the current values, or on those that were just `made`."""
        known = made or {}

        def as_value(leaf: Any) -> Any:
            if not isinstance(leaf, Ref):
                return leaf
            return known[leaf.index] if leaf.index in known else self.value(leaf)

        return op.func(*mapped(op.args, as_value), **mapped(op.kwargs, as_value))


def _written(tape: Tape) -> set[Ref]:
    """Tensors that some operation modifies in place, and those that may share their memory."""
    found: set[Ref] = set()
    for op in reversed(tape.ops):
        if op.func._schema.is_mutable or not found.isdisjoint(op.results()):
            found.update(op.results(), op.inputs() if op.results() else ())
    return found
