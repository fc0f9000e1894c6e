"""One tape per batch, recorded where necessary and shared where possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ramify.refit.readers import Course, Numbers, course_of
from ramify.tracing.recorder import Tape, record

_BY_DATA = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


def tapes_of(
    model: nn.Module, batches: Sequence[Any], forward: Callable[[nn.Module, Any], Any]
) -> list[Tape]:
    """The tapes of a model on each batch.

    If the first two batches ran exactly alike, using only their own tensors, other batches of their
    shape are not run: they get the tape of the first with its tensors replaced by theirs.

    Args:
        model: the network.
        batches: the batches to run it on.
        forward: runs the model on a batch.

    Returns:
        One tape per batch, with its random draws.
    """
    made: list[Tape] = []
    for number, batch in enumerate(batches):
        shared = None
        if number >= 2 and same_operations(made[0], made[1]):
            shared = for_other(made[0], batches[0], batch)
        if shared is None:
            run = lambda batch=batch: forward(model, batch)  # noqa: E731
            shared = record(model, run, batch, draws=True)
        made.append(shared)
    return made


def same_operations(one: Tape, other: Tape) -> bool:
    """Whether two runs executed the same operations on the same sizes, whatever the data."""
    if one.shapes != other.shapes or not independent_of_data(one):
        return False
    return len(one.ops) == len(other.ops) == same_until(one, other)


def independent_of_data(tape: Tape) -> bool:
    """Whether values do not matter: no random draws, captured tensors or data-dependent ops."""
    if tape.drawn or tape.constants.keys() - tape.inputs:
        return False
    return not any(tag in op.func.tags for op in tape.ops for tag in _BY_DATA)


class Courses:
    """The readers and norms of many runs, computed once for identical runs."""

    def __init__(self) -> None:
        self._known: list[tuple[Tape, Course]] = []
        self._numbers: Numbers = {}

    def of(self, tape: Tape) -> Course:
        """The readers and norms of one run."""
        for other, course in self._known:
            if tape.ops is other.ops or same_operations(other, tape):
                return course
        course = course_of(tape, self._numbers)
        self._known.append((replace(tape, results=[], constants={}), course))
        return course


def same_until(one: Tape, other: Tape) -> int:
    """The number of operations that two runs share from the start, on the same tensors."""
    pairs = enumerate(zip(one.ops, other.ops, strict=False))
    differs = (
        number
        for number, (a, b) in pairs
        if a is not b
        and (a.func is not b.func or (a.args, a.kwargs, a.outputs) != (b.args, b.kwargs, b.outputs))
    )
    return next(differs, min(len(one.ops), len(other.ops)))


def for_other(tape: Tape, first: Any, batch: Any) -> Tape | None:
    """The tape with the tensors of another batch; None if their shapes differ."""
    mine, shape = tree_flatten(first)
    theirs, other = tree_flatten(batch)
    if shape != other:
        return None
    constants = dict(tape.constants)
    places = {id(tensor): index for index, tensor in tape.constants.items()}
    for a, b in zip(mine, theirs, strict=True):
        if not isinstance(a, Tensor):
            if a is not b and a != b:
                return None
        elif not isinstance(b, Tensor) or a.shape != b.shape or a.dtype != b.dtype:
            return None
        elif id(a) in places:
            constants[places[id(a)]] = b
    return replace(tape, constants=constants, results=[])
