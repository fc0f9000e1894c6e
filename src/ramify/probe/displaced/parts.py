"""Which operations carry the same twins: each part of a network is followed and freed by itself."""

from __future__ import annotations

import functools
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ramify.probe.displaced.linear import rule_of
from ramify.probe.displaced.tensor import Twin
from ramify.tracing.dims import Atom, Term
from ramify.tracing.recorder import Op, Ref, Tape, mapped


@dataclass
class Part:
    """Kernels, and all that carries their twins to reads; no other part touches any of it.

    Attributes:
        names: the displaced parameters.
        steps: operations that carry or end a twin, in order.
        cuts: operations that read a twin.
        writes: (operation, tensor) where a twin is written into in place.
        values: the tensors whose values are asked for; of others the shape is enough.
    """

    names: set[str] = field(default_factory=set)
    steps: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    writes: list[tuple[int, Ref]] = field(default_factory=list)
    values: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Pass:
    """What a labelled tape says of the reads of groups that are followed together.

    Attributes:
        cuts: operation -> the tensor it reads, for every sum over probed channels with a weight;
            for a product of two activations that sums over them, the tensor it makes.
        products: the operations that are such products -> their factors.
        terms: operation -> the terms of what it reads; of a product, of its first factor.
        parts: what is followed by itself.
        groups: axis of a probed group -> its number.
    """

    cuts: Mapping[int, Ref]
    products: Mapping[int, tuple[Ref, Ref]]
    terms: Mapping[int, Sequence[Term]]
    parts: Sequence[Part]
    groups: dict[Atom, int]


def parts_of(
    tape: Tape,
    cuts: Mapping[int, Ref],
    names: Collection[str],
    groups: Mapping[int, Sequence[Hashable]],
) -> list[Part]:
    """Cut a tape into parts.

    Args:
        tape: what was run.
        cuts: operation -> the tensor that is read there, or made there by a product, and held.
        names: the displaced parameters.
        groups: operation of a cut -> what is summed there; reads of one group are one part.

    Returns:
        The parts, in the order of their kernels; one that reaches no read has no cuts.
    """
    joined, straight = _Joined(), dict[int, bool]()
    own = {index: name for index, name in tape.names.items() if name in names}
    displaced = list(own.values())
    straight.update(dict.fromkeys(own, True))
    steps: list[tuple[int, str, set[int]]] = []
    reads: list[tuple[int, str]] = []
    for position, op in enumerate(tape.ops):
        cut = cuts.get(position)
        made = cut is not None and cut not in op.inputs()
        read = [r.index for r in op.inputs() if (made or r == cut) and r.index in own]
        if read:
            reads.append((position, own[read[0]]))
            joined.join(*(own[index] for index in read), *groups[position])
        moving = [r.index for r in op.inputs() if not made and r != cut and r.index in own]
        results = [ref.index for ref in op.results()]
        if moving and position not in tape.drawn:
            joined.join(*(own[index] for index in moving))
            line = _is_line(op, {index: straight[index] for index in moving})
            values = {ref.index for ref in op.inputs()}
            steps.append(
                (position, own[moving[0]], values - set(moving) if line else values.union(results))
            )
            own.update(dict.fromkeys(results, own[moving[0]]))
            straight.update(dict.fromkeys(results, line))
        else:
            steps += [(position, own.pop(index), set()) for index in results if index in own]
    found: dict[Hashable, Part] = {}
    for name in displaced:
        found.setdefault(joined.root(name), Part()).names.add(name)
    for position, name in reads:
        part = found[joined.root(name)]
        part.cuts.append(position)
        part.values |= read_values(tape.ops[position], cuts[position])
    for position, name, values in steps:
        part = found[joined.root(name)]
        part.steps.append(position)
        part.writes += [(position, ref) for ref in _written(tape.ops[position])]
        part.values |= values
    for part in found.values():
        part.values.update(ref.index for _, ref in part.writes)
    return list(found.values())


def read_values(op: Op, cut: Ref) -> set[int]:
    """The tensors that a read is known by: of a product, what it is made of."""
    inputs = op.inputs()
    return {cut.index} if cut in inputs else {ref.index for ref in inputs}


def _is_line(op: Op, straight: Mapping[int, bool]) -> bool:
    """Whether an operation keeps twins straight."""
    hollow, make = torch.empty(0), functools.partial(torch.empty, 0)
    twins = {
        index: Twin.straight(hollow, make) if is_line else Twin.bent(hollow, make, make)
        for index, is_line in straight.items()
    }
    stand = lambda leaf: twins.get(leaf.index, hollow) if isinstance(leaf, Ref) else leaf  # noqa: E731
    rule = rule_of(op, mapped(op.args, stand), mapped(op.kwargs, stand))
    return rule is not None and all(straight.values())


def _written(op: Op) -> list[Ref]:
    return [ref for ref in op.results() if ref in op.inputs()] if op.func._schema.is_mutable else []


class _Joined:
    """Which things belong together."""

    def __init__(self) -> None:
        self._above: dict[Hashable, Hashable] = {}

    def root(self, thing: Hashable) -> Hashable:
        """What stands for all that the thing belongs to."""
        while (above := self._above.get(thing, thing)) != thing:
            thing = above
        return thing

    def join(self, *things: Hashable) -> None:
        """From now on these belong together."""
        first, *others = map(self.root, things)
        self._above.update((other, first) for other in others if other != first)
