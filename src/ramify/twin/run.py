"""Twins carried over a tape: what each copy's displacement makes of every tensor on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ramify.replay import replay
from ramify.snapshot import Snapshot
from ramify.trace.recorder import Op, Ref, leaves, mapped
from ramify.twin.even import Even, Halves, Whole
from ramify.twin.linear import moves, rule_of, scaled
from ramify.twin.tensor import Twin, rectified
from ramify.twin.tiles import POOL, pooled, tile_of


def even_parts(
    snapshot: Snapshot,
    cuts: Mapping[int, Ref],
    last: Mapping[int, int],
    displaced: Mapping[str, Tensor],
) -> dict[int, Even]:
    """The even part of what is read at each cut; the reader itself goes on with what is held.

    Args:
        snapshot: one batch.
        cuts: operation -> the tensor that is read there.
        last: tensor -> the last operation that reads it.
        displaced: producer parameter -> the displacement of the first copy.

    Returns:
        Operation -> Δa, absent where it is zero; differentiable in the displacements.
    """
    try:
        return _followed(snapshot, cuts, last, displaced)
    except _SharedWriteError:
        return replayed(snapshot, cuts, displaced)


def replayed(
    snapshot: Snapshot, cuts: Mapping[int, Ref], displaced: Mapping[str, Tensor]
) -> dict[int, Even]:
    """The same by running the whole tape for each copy: true whatever writes into what.

    Args:
        snapshot: one batch.
        cuts: operation -> the tensor that is read there.
        displaced: producer parameter -> the displacement of the first copy.

    Returns:
        Operation -> Δa.
    """
    sides: list[dict[int, Tensor]] = []
    for sign in (1, -1):
        found: dict[int, Tensor] = {}

        def cut(position: int, tensor: Tensor, found: dict[int, Tensor] = found) -> Tensor:
            if tensor.requires_grad:
                found[position] = tensor.clone()
            return snapshot.value(cuts[position], position)

        moved = {name: snapshot.constants[name] + sign * v for name, v in displaced.items()}
        with torch.enable_grad():
            tensors = snapshot.constants | moved
            replay(snapshot.tape, tensors, cuts, cut, until=max(cuts, default=-1))
        sides.append(found)
    plus, minus = sides
    return {
        position: Halves((tensor, minus[position], snapshot.value(cuts[position], position)))
        for position, tensor in plus.items()
    }


def _followed(
    snapshot: Snapshot,
    cuts: Mapping[int, Ref],
    last: Mapping[int, int],
    displaced: Mapping[str, Tensor],
) -> dict[int, Even]:
    run, evens = _Run(snapshot, last, displaced), {}
    for position, op in enumerate(snapshot.tape.ops[: max(cuts, default=-1) + 1]):
        source = cuts.get(position)
        twin = run.twins.get(source.index) if source is not None else None
        halves = twin.halves if twin is not None else None
        if halves is not None:
            evens[position] = halves
        run.step(position, op, source)
    return evens


class _SharedWriteError(Exception):
    """A write into memory that a later operation reads under another name."""


class _Run:
    """The twins of one tape's tensors."""

    def __init__(
        self, snapshot: Snapshot, last: Mapping[int, int], displaced: Mapping[str, Tensor]
    ) -> None:
        self._snapshot = snapshot
        self._last = last
        self.twins = {
            index: Twin.straight(
                snapshot.constants[name], functools.partial(_given, displaced[name])
            )
            for index, name in snapshot.tape.names.items()
            if name in displaced
        }

    def step(self, position: int, op: Op, cut: Ref | None) -> None:
        """Carry the twins over one operation; what is read at a cut is held."""
        held = not any(ref != cut and ref.index in self.twins for ref in op.inputs())
        if held or position in self._snapshot.tape.drawn:
            for ref in op.results():
                self.twins.pop(ref.index, None)
            return

        def value(leaf: Any) -> Any:
            if not isinstance(leaf, Ref):
                return leaf
            twin = self.twins.get(leaf.index) if leaf != cut else None
            return twin if twin is not None else self._snapshot.value(leaf, position)

        args, kwargs = mapped(op.args, value), mapped(op.kwargs, value)
        base = [self._snapshot.value(ref, position + 1) for ref in op.results()]
        for ref, twin in zip(op.results(), _carried(op, args, kwargs, base), strict=True):
            if ref in op.inputs():
                self._check_alone(position, ref)
            self.twins[ref.index] = twin

    def _check_alone(self, position: int, ref: Ref) -> None:
        """A write that other tensors of the same memory see is not followed."""
        if any(self._last.get(other, -1) > position for other in self._snapshot.shared(ref)):
            raise _SharedWriteError


def _given(tensor: Tensor) -> Tensor:
    return tensor


def _carried(op: Op, args: Any, kwargs: Any, base: list[Tensor]) -> list[Twin]:
    """The twins of an operation's results."""
    name = op.name.removesuffix("_") if op.func._schema.is_mutable else op.name
    if name == "aten::relu":
        return [rectified(args[0], base[0])]
    named = any(isinstance(value, Tensor) or moves(value) for value in kwargs.values())
    rule = None if named else rule_of(name, args)

    @functools.cache
    def parts(which: str) -> list[Tensor | None]:
        assert rule is not None
        out = rule(op, args, lambda twin: twin.form(which), base[0])
        return list(out) if isinstance(out, (tuple, list)) else [out] * len(base)

    def odd(n: int) -> Any:
        return parts("odd")[n]

    def even(n: int) -> Even | None:
        return Whole.of(parts("even")[n])

    if rule is not None and all(twin.is_straight for twin in leaves(args, Twin)):
        straight = [Twin.straight(b, functools.partial(odd, n)) for n, b in enumerate(base)]
        straight[0].scaled = scaled(op, args, base[0])
        return straight
    side = functools.cache(functools.partial(_side, op, args, kwargs))
    tile = tile_of(args, base[0]) if name == POOL else None

    def copy(which: str, n: int) -> Tensor:
        return pooled(args[0], which, tile) if tile and n == 0 else side(which)[n]

    return [
        Twin.bent(
            b,
            functools.partial(copy, "plus", n),
            functools.partial(copy, "minus", n),
            functools.partial(even, n) if rule is not None else None,
        )
        for n, b in enumerate(base)
    ]


def _side(op: Op, args: Any, kwargs: Any, which: str) -> list[Tensor]:
    """Any operation, run with the tensors of one copy."""
    pick = lambda leaf: getattr(leaf, which) if isinstance(leaf, Twin) else leaf  # noqa: E731
    mine, named = mapped(args, pick), mapped(kwargs, pick)
    if op.func._schema.is_mutable:
        mine = (mine[0].clone(), *mine[1:])
    return leaves(op.func(*mine, **named), Tensor)
