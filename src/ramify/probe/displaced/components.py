"""Which operations carry displacements of the same kernels: the components to follow one by one.

Two kernels are in one component if some operation, or some reader, gets the displacements of both.
The memory of a component is freed before the next one is followed.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ramify.probe.displaced.linear import linear_rule
from ramify.probe.displaced.tensor import DisplacedTensor
from ramify.tracing.dims import Atom, Term
from ramify.tracing.recorder import Op, Ref, Tape, mapped


@dataclass
class Component:
    """Kernels, and the operations that carry their displacements to reads, separate from others.

    Attributes:
        names: the displaced parameters.
        steps: operations that propagate or end a displacement, in order.
        reads: operations that read a displaced tensor.
        writes: (operation, tensor) where a displaced tensor is modified in place.
        values: the tensors whose values are needed; for others the shape suffices.
    """

    names: set[str] = field(default_factory=set)
    steps: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    writes: list[tuple[int, Ref]] = field(default_factory=list)
    values: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class TargetSet:
    """Groups that are followed together, and their reads on a labelled tape.

    Attributes:
        reads: operation -> the tensor it reads, for every sum over probed channels with a weight;
            for a product of two activations that sums over them, its output.
        products: the operations that are such products -> their factors.
        terms: operation -> the terms of what it reads; for a product, of its first factor.
        components: the components, followed one by one.
        groups: axis of a probed group -> its number.
    """

    reads: Mapping[int, Ref]
    products: Mapping[int, tuple[Ref, Ref]]
    terms: Mapping[int, Sequence[Term]]
    components: Sequence[Component]
    groups: dict[Atom, int]


def components_of(
    tape: Tape,
    reads: Mapping[int, Ref],
    names: Collection[str],
    groups: Mapping[int, Sequence[Hashable]],
) -> list[Component]:
    """The connected components of a tape.

    Args:
        tape: the tape of a run.
        reads: operation -> the tensor that is read there, or the output of a product.
        names: the displaced parameters.
        groups: operation of a read -> the groups summed there; reads of one group are joined.

    Returns:
        The components, in the order of their kernels; one without a read has no reads.
    """
    # `own`: displaced tensor -> a parameter that represents its component.
    own = {index: name for index, name in tape.names.items() if name in names}
    displaced = list(own.values())
    joined, linear = _UnionFind(), dict.fromkeys(own, True)
    steps: list[tuple[int, str, set[int]]] = []
    read_by: list[tuple[int, str]] = []
    for position, op in enumerate(tape.ops):
        # A reader joins its input with all other reads of the same groups; its output is not
        # displaced.
        read = reads.get(position)
        made = read is not None and read not in op.inputs()
        seen = [r.index for r in op.inputs() if (made or r == read) and r.index in own]
        if seen:
            read_by.append((position, own[seen[0]]))
            joined.join(*(own[index] for index in seen), *groups[position])
        # Any other displaced argument displaces the results.
        moving = [r.index for r in op.inputs() if not made and r != read and r.index in own]
        results = [ref.index for ref in op.results()]
        if moving and position not in tape.drawn:
            joined.join(*(own[index] for index in moving))
            line = _keeps_linear(op, {index: linear[index] for index in moving})
            values = {ref.index for ref in op.inputs()}
            steps.append(
                (position, own[moving[0]], values - set(moving) if line else values.union(results))
            )
            own.update(dict.fromkeys(results, own[moving[0]]))
            linear.update(dict.fromkeys(results, line))
        else:  # a tensor overwritten without a displacement has none
            steps += [(position, own.pop(index), set()) for index in results if index in own]
    # Sort the steps and reads by component.
    found: dict[Hashable, Component] = {}
    for name in displaced:
        found.setdefault(joined.root(name), Component()).names.add(name)
    for position, name in read_by:
        component = found[joined.root(name)]
        component.reads.append(position)
        component.values |= read_values(tape.ops[position], reads[position])
    for position, name, values in steps:
        component = found[joined.root(name)]
        component.steps.append(position)
        component.writes += [(position, ref) for ref in _written(tape.ops[position])]
        component.values |= values
    for component in found.values():
        component.values.update(ref.index for _, ref in component.writes)
    return list(found.values())


def read_values(op: Op, read: Ref) -> set[int]:
    """The tensors whose values a read needs: for a product, its factors."""
    inputs = op.inputs()
    return {read.index} if read in inputs else {ref.index for ref in inputs}


def _keeps_linear(op: Op, linear: Mapping[int, bool]) -> bool:
    """Whether an operation on linear tensors gives linear results."""
    # Rules check which arguments are displaced, not values: empty tensors replace those.
    empty, make = torch.empty(0), functools.partial(torch.empty, 0)
    displaced = {
        index: DisplacedTensor.linear(empty, make)
        if is_linear
        else DisplacedTensor.of_copies(empty, make, make)
        for index, is_linear in linear.items()
    }
    stand_in = lambda leaf: displaced.get(leaf.index, empty) if isinstance(leaf, Ref) else leaf  # noqa: E731
    rule = linear_rule(op, mapped(op.args, stand_in), mapped(op.kwargs, stand_in))
    return rule is not None and all(linear.values())


def _written(op: Op) -> list[Ref]:
    return [ref for ref in op.results() if ref in op.inputs()] if op.is_mutable else []


class _UnionFind:
    """A union-find structure: which items are in one component."""

    def __init__(self) -> None:
        self._above: dict[Hashable, Hashable] = {}

    def root(self, thing: Hashable) -> Hashable:
        """The representative of the item's component."""
        while (above := self._above.get(thing, thing)) != thing:
            thing = above
        return thing

    def join(self, *things: Hashable) -> None:
        """Merge the components of these items."""
        first, *others = map(self.root, things)
        self._above.update((other, first) for other in others if other != first)
