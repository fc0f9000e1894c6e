"""Which operations carry the same twins: each part of a network is followed and freed by itself."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from ramify.trace.recorder import Op, Ref, Tape


@dataclass
class Part:
    """Kernels, and all that carries their twins to reads; no other part touches any of it.

    Attributes:
        names: the displaced parameters.
        steps: operations that carry or end a twin, in order.
        cuts: operations that read a twin.
        writes: (operation, tensor) where a twin is written into in place.
    """

    names: set[str] = field(default_factory=set)
    steps: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    writes: list[tuple[int, Ref]] = field(default_factory=list)


def parts_of(
    tape: Tape,
    cuts: Mapping[int, Ref],
    names: Collection[str],
    groups: Mapping[int, Sequence[Hashable]],
) -> list[Part]:
    """Cut a tape into parts.

    Args:
        tape: what was run.
        cuts: operation -> the tensor that is read there, and held.
        names: the displaced parameters.
        groups: operation of a cut -> what is summed there; reads of one group are one part.

    Returns:
        The parts, in the order of their kernels; one that reaches no read has no cuts.
    """
    joined = _Joined()
    own = {index: name for index, name in tape.names.items() if name in names}
    displaced = list(own.values())
    steps: list[tuple[int, str]] = []
    reads: list[tuple[int, str]] = []
    for position, op in enumerate(tape.ops):
        cut = cuts.get(position)
        if cut is not None and cut.index in own:
            reads.append((position, own[cut.index]))
            joined.join(own[cut.index], *groups[position])
        moving = [own[r.index] for r in op.inputs() if r != cut and r.index in own]
        if moving and position not in tape.drawn:
            joined.join(*moving)
            steps.append((position, moving[0]))
            own.update((ref.index, moving[0]) for ref in op.results())
        else:
            ended = [own.pop(ref.index) for ref in op.results() if ref.index in own]
            steps += [(position, name) for name in ended]
    found: dict[Hashable, Part] = {}
    for name in displaced:
        found.setdefault(joined.root(name), Part()).names.add(name)
    for position, name in reads:
        found[joined.root(name)].cuts.append(position)
    for position, name in steps:
        part = found[joined.root(name)]
        part.steps.append(position)
        part.writes += [(position, ref) for ref in _written(tape.ops[position])]
    return list(found.values())


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
