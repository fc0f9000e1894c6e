"""Rows of a run that its data select, as where each expert gets its own tokens.

Two networks, or two batches, may select different rows: the readers of such rows cannot be compared
row by row, and are not refitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ramify.errors import RamifyError
from ramify.refit.readers import Course
from ramify.refit.tapes import Courses
from ramify.tracing.recorder import Ref, Tape

_LOOKS_UP = "aten::index"


def rows_by_data(tape: Tape) -> set[Ref]:
    """The tensors of a run whose rows were selected by computed values.

    A result has all rows again when it combines with an unselected tensor of its shape, such as a
    stream to which the experts' outputs are added.

    Args:
        tape: the tape of the run.

    Returns:
        The tensors.
    """
    live = {Ref(index) for index in tape.inputs}  # what depends on the data
    found = set[Ref]()
    for op in tape.ops:
        inputs, results = op.inputs(), op.results()
        if live.isdisjoint(inputs):
            continue
        live.update(results)
        by = inputs[1:] if op.name == _LOOKS_UP else inputs
        dynamic = torch.Tag.dynamic_output_shape in op.func.tags
        chosen = (dynamic and not live.isdisjoint(by)) or not found.isdisjoint(inputs)
        whole = [ref for ref in inputs if ref in live and ref not in found]
        for ref in results if chosen else ():
            shape = tape.shape(ref)
            if dynamic or not any(tape.shape(other) == shape for other in whole):
                found.add(ref)
    return found


def courses_of(tapes: Sequence[Tape]) -> list[Course]:
    """The readers and norms of each run, without those on selected rows.

    Args:
        tapes: the tapes of the runs.

    Returns:
        One course per run.
    """
    known = Courses()
    return [_on_rows_of_its_own(tape, known.of(tape)) for tape in tapes]


def shared_courses(courses: Sequence[Course]) -> list[Course]:
    """The readers and norms that all given runs have, in one order.

    Args:
        courses: the courses of the runs.

    Returns:
        One course per run; the readers of all have the same names, and so do the norms.

    Raises:
        RamifyError: the runs have them in different orders.
    """
    named = [({r.name for r in one.readers}, {n.mean for n in one.norms}) for one in courses]
    readers = set.intersection(*(names for names, _ in named))
    norms = set.intersection(*(names for _, names in named))
    out = [_only(course, readers, norms) for course in courses]
    orders = [[*(r.name for r in one.readers), *(n.mean for n in one.norms)] for one in out]
    for order in orders:
        if order != orders[0]:
            other = next(a for a, b in zip(orders[0], order, strict=True) if a != b)
            raise RamifyError(
                f"the edited network takes another course than the old one at '{other}', so that "
                "their layers cannot be compared: refit=False leaves the weights as they are"
            )
    return out


def _on_rows_of_its_own(tape: Tape, course: Course) -> Course:
    chosen = rows_by_data(tape)
    readers = {reader.name for reader in course.readers if reader.source not in chosen}
    return _only(course, readers, {n.mean for n in course.norms if n.source not in chosen})


def _only(course: Course, readers: set[str], norms: set[str]) -> Course:
    return replace(
        course,
        readers=tuple(reader for reader in course.readers if reader.name in readers),
        norms=tuple(norm for norm in course.norms if norm.mean in norms),
        behind={p: norm for p, norm in course.behind.items() if norm.mean in norms},
    )
