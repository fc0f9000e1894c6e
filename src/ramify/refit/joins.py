"""Readers whose output is added to another stream: residual connections.

A block that adds to a stream can make up for what the stream has lost before it: its target is the
output that restores the original *sum*, not only its own summand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ramify.refit.readers import Norm, Reader
from ramify.tracing.recorder import Op, Ref, Tape

_VIEWS = frozenset(f"aten::{name}" for name in ("view", "_unsafe_view", "reshape", "clone"))
_ADDS = frozenset({"aten::add", "aten::add_"})


@dataclass(frozen=True)
class Join:
    """The sum that a reader's output goes into.

    Attributes:
        other: the other summand, known before the reader runs.
        norm: the batch norm between the two, if there is one.
    """

    other: Ref
    norm: Norm | None


def joins_of(tape: Tape, readers: Sequence[Reader], norms: Sequence[Norm]) -> dict[int, Join]:
    """The readers whose output is only used in a sum with an earlier tensor.

    Args:
        tape: the tape of one run.
        readers: the readers of that tape.
        norms: the norms of that tape.

    Returns:
        Reader's position -> the sum.
    """
    takers: dict[Ref, list[int]] = {}
    made = dict.fromkeys(tape.outputs, len(tape.ops))
    born: dict[Ref, int] = {}
    for position, op in enumerate(tape.ops):
        for ref in set(op.inputs()):
            takers.setdefault(ref, []).append(position)
        for ref in op.results():
            born.setdefault(ref, position)
    by_place = {norm.position: norm for norm in norms}
    found = {}
    for reader in readers:
        join = _follow(tape, reader, takers, born, by_place) if reader.result not in made else None
        if join is not None:
            found[reader.position] = join
    return found


def _follow(
    tape: Tape,
    reader: Reader,
    takers: Mapping[Ref, Sequence[int]],
    born: Mapping[Ref, int],
    norms: Mapping[int, Norm],
) -> Join | None:
    ref, norm = reader.result, None
    while len(takers.get(ref, ())) == 1:
        [position] = takers[ref]
        op = tape.ops[position]
        if op.name in _ADDS:
            other = _other(op, ref)
            early = other is not None and born.get(other, -1) < reader.position
            same = other is not None and _size(tape, other) == _size(tape, reader.result)
            return Join(other, norm) if other is not None and early and same else None
        if position in norms and norm is None:
            norm = norms[position]
        elif op.name not in _VIEWS:
            return None
        ref = op.results()[0]
    return None


def _other(op: Op, ref: Ref) -> Ref | None:
    """The other summand of a plain sum of two tensors."""
    if op.named().get("alpha", 1) != 1 or not all(isinstance(arg, Ref) for arg in op.args[:2]):
        return None
    a, b = op.args[:2]
    return b if a == ref else a


def _size(tape: Tape, ref: Ref) -> int:
    size = 1
    for n in tape.shape(ref):
        size *= n
    return size
