"""One tape for each batch, recorded where it must be and shared where it can be."""

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
    """What a model runs on each batch.

    Where the first two batches ran exactly alike, from their own tensors alone, others of their
    shape are not run again: they get the tape of the first, with their tensors in place of its.

    Args:
        model: the network.
        batches: what to run it on.
        forward: runs the model on a batch.

    Returns:
        One tape a batch, with its draws.
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
    """Whether the run is the same with other values: nothing is drawn, chosen or held besides."""
    if tape.drawn or tape.constants.keys() - tape.inputs:
        return False
    return not any(tag in op.func.tags for op in tape.ops for tag in _BY_DATA)


class Courses:
    """The readers and norms of many runs, found once for those that are alike."""

    def __init__(self) -> None:
        self._known: list[tuple[Tape, Course]] = []
        self._numbers: Numbers = {}

    def of(self, tape: Tape) -> Course:
        """Those of one run."""
        for other, course in self._known:
            if tape.ops is other.ops or same_operations(other, tape):
                return course
        course = course_of(tape, self._numbers)
        self._known.append((replace(tape, results=[], constants={}), course))
        return course


def same_until(one: Tape, other: Tape) -> int:
    """How many operations two runs have in common from the start, on the same tensors."""
    pairs = enumerate(zip(one.ops, other.ops, strict=False))
    differs = (
        number
        for number, (a, b) in pairs
        if a is not b
        and (a.func is not b.func or (a.args, a.kwargs, a.outputs) != (b.args, b.kwargs, b.outputs))
    )
    return next(differs, min(len(one.ops), len(other.ops)))


def for_other(tape: Tape, first: Any, batch: Any) -> Tape | None:
    """The tape with the tensors of another batch; None where that has other shapes."""
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
