"""The scale of a product of activations: finds where a grown run multiplies by another number.

A forward may scale q·kᵀ by the number of channels (1/√d). Two runs at different widths give the
power. The rows that produce one of the factors then keep the scale constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ramify.tracing.attention.factors import scalable_products
from ramify.tracing.contraction import MOVES, MULTIPLIES, ScalableProduct
from ramify.tracing.dims import resolve
from ramify.tracing.flow import DimFlow
from ramify.tracing.indexing import Changes, new_size
from ramify.tracing.recorder import Op, Ref, Tape
from ramify.tracing.verify.comparison import ReferenceRun


def products_on(flow: DimFlow, tape: Tape) -> dict[int, list[ScalableProduct]]:
    """The products of activations on a tape whose scale some rows can take, by operation."""
    found: dict[int, list[ScalableProduct]] = {}
    for each in {e.key: e for some in scalable_products(flow).values() for e in some}.values():
        if each.read.tape is tape:
            found.setdefault(each.read.op, []).append(each)
    return found


def rescaled(reference: ReferenceRun, grown: Tape, changes: Changes) -> Iterator[tuple[int, float]]:
    """(operation, old scale over new) of every operation whose scale differs in the grown run."""
    pairs = _aligned(reference.tape, grown)
    for position, op in enumerate(reference.tape.ops):
        # Fused attention takes the width from its queries; other operations have it as an argument.
        if _scales_by_width(op):
            width = resolve(reference.dims[op.args[0].index][-1])
            size = new_size(width, changes)
            if size != width.size:
                yield position, (size / width.size) ** 0.5
            continue
        other = pairs.get(position)
        old, new = _number_in(op), _number_in(grown.ops[other]) if other is not None else None
        if old and new and not math.isclose(old, new, rel_tol=1e-9):
            yield position, old / new


def scaled_product(
    tape: Tape, position: int, of: Mapping[int, list[ScalableProduct]]
) -> tuple[set[int], ScalableProduct | None]:
    """The product that an operation scales, before or after the product itself.

    Args:
        tape: the run.
        position: an operation that multiplies by a number.
        of: operation -> the scalable products there.

    Returns:
        (the operations whose values differ if the number changes and the product's rows compensate
        for it, the product); the product is None if there is none.
    """
    for each in (each for found in of.values() for each in found):
        if position in each.between or position == each.read.op:
            return set(), each
        if position in each.other_between:
            return {later for later in each.other_between if later >= position}, each
    # After a product: go back through operations that only move or scale elements.
    writers: dict[int, int] = {}
    for number, op in enumerate(tape.ops[:position]):
        writers.update((ref.index, number) for ref in op.results())
    at, off = position, set[int]()
    while True:
        source = tape.ops[at].args[0]
        at = writers.get(source.index, -1) if isinstance(source, Ref) else -1
        off.add(at)
        if at in of:
            return off, of[at][0]
        if at < 0 or tape.ops[at].name not in MOVES | MULTIPLIES:
            return set(), None


def _number_in(op: Op) -> float | None:
    """The number that an operation multiplies a tensor by, if it is real and nonzero."""
    if op.name not in MULTIPLIES or len(op.inputs()) != 1 or not isinstance(op.args[0], Ref):
        return None
    number = op.args[1]
    if isinstance(number, complex) or not number:
        return None
    return 1.0 / number if "div" in op.name else float(number)


def _scales_by_width(op: Op) -> bool:
    """Whether an operation scales queries times keys by the root of the queries' width."""
    return "scaled_dot_product" in op.name and op.kwargs.get("scale") is None


def _aligned(old: Tape, new: Tape) -> dict[int, int]:
    """Operation of one run -> the same operation of another.

    Other sizes may use another attention kernel, so that one operation becomes several; such
    operations are left out.

    Returns:
        The pairs, up to the point where the runs can no longer be matched.
    """
    ones, others = ([(op.name, op.module) for op in tape.ops] for tape in (old, new))
    pairs, shift, at = {}, 0, 0
    while at < len(ones) and at + shift < len(others):
        if ones[at] != others[at + shift]:
            where = _next_match(ones[at:], others[at + shift :])
            if where is None:
                break
            at, shift = at + where[0], shift + where[1] - where[0]
        pairs[at] = at + shift
        at += 1
    return pairs


def _next_match(ones: Sequence[Any], others: Sequence[Any]) -> tuple[int, int] | None:
    """How many elements to skip in each of two sequences until they match again.

    A kernel has at most some tens of operations, and a match of the next four is enough.

    Returns:
        (number for one, for the other); None if they do not match again.
    """
    for left_out in range(1, 64):  # the smallest total, for any split between the two
        for one in range(left_out + 1):
            other = left_out - one
            rest = min(4, len(ones) - one, len(others) - other)
            if rest > 0 and ones[one : one + rest] == others[other : other + rest]:
                return one, other
    return None
