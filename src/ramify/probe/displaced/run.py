"""Twins carried over a tape: what each copy's displacement makes of every tensor on the way."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ramify.probe.displaced.even import Even, Halves, Whole
from ramify.probe.displaced.linear import plain_name, rule_of, scaled
from ramify.probe.displaced.parts import Part, Pass
from ramify.probe.displaced.product import Change, share_of, split
from ramify.probe.displaced.tensor import Twin, rectified
from ramify.probe.displaced.tiles import POOL, pooled, tile_of
from ramify.probe.recorded_pass import Snapshot
from ramify.probe.replay import replay
from ramify.tracing.recorder import Op, Ref, leaves, mapped

Reading = Even | Change
"""What a read changes by."""


def even_parts(
    snapshot: Snapshot,
    way: Pass,
    last: Mapping[int, int],
    displaced: Mapping[str, Tensor],
) -> Iterator[dict[int, Reading]]:
    """The even part of what is read at each cut; the reader itself goes on with what is held.

    Args:
        snapshot: one batch.
        way: what is followed.
        last: tensor -> the last operation that reads it.
        displaced: producer parameter -> the displacement of the first copy.

    Yields:
        For each part: operation -> Δa, absent where it is zero; differentiable in the
        displacements.
    """
    if any(_seen_elsewhere(snapshot, last, *write) for part in way.parts for write in part.writes):
        yield replayed(snapshot, way, displaced)
        return
    for part in way.parts:
        if part.cuts:
            yield _followed(snapshot, way, part, displaced)


def _seen_elsewhere(snapshot: Snapshot, last: Mapping[int, int], position: int, ref: Ref) -> bool:
    """Whether a write goes into memory that a later operation reads under another name."""
    return any(last.get(other, -1) > position for other in snapshot.shared(ref))


def replayed(snapshot: Snapshot, way: Pass, displaced: Mapping[str, Tensor]) -> dict[int, Reading]:
    """The same by running the whole tape for each copy: true whatever writes into what.

    Args:
        snapshot: one batch.
        way: what is followed.
        displaced: producer parameter -> the displacement of the first copy.

    Returns:
        Operation -> Δa.
    """
    plus, minus = (_copied(snapshot, way, displaced, sign) for sign in (1, -1))
    found: dict[int, Reading] = {}
    for position, tensors in plus.items():
        op = snapshot.tape.ops[position]
        refs = way.products.get(position, (way.cuts[position],))
        base = [snapshot.value(ref, position) for ref in refs]
        copies = zip(tensors, minus[position], base, strict=True)
        if position not in way.products:
            found[position] = Halves(next(copies))
            continue
        twins = [
            Twin.bent(b, functools.partial(_given, p), functools.partial(_given, m))
            for p, m, b in copies
        ]
        change = split(share_of(op), *twins)
        if change is not None:
            found[position] = change
    return found


def _copied(
    snapshot: Snapshot, way: Pass, displaced: Mapping[str, Tensor], sign: int
) -> dict[int, list[Tensor]]:
    """What each cut reads in the network of one copy: a tensor, or the factors of a product."""
    found: dict[int, list[Tensor]] = {}
    tape, cuts = snapshot.tape, way.cuts

    def before(position: int, args: Any) -> None:
        if position in way.products:
            op = tape.ops[position]
            given = [args[op.args.index(ref)] for ref in way.products[position]]
            if any(tensor.requires_grad for tensor in given):
                found[position] = [tensor.clone() for tensor in given]

    def cut(position: int, tensor: Tensor) -> Tensor:
        if position in way.products:  # its own value is not kept
            return _again(snapshot, position)
        if tensor.requires_grad:
            found[position] = [tensor.clone()]
        return snapshot.value(cuts[position], position)

    moved = {name: snapshot.constants[name] + sign * v for name, v in displaced.items()}
    with torch.enable_grad():
        tensors, end = snapshot.constants | moved, max(cuts, default=-1)
        replay(tape, tensors, cuts, cut, until=end, before=before)
    return found


def _again(snapshot: Snapshot, position: int) -> Tensor:
    """What an operation gave, from what it was given."""
    op = snapshot.tape.ops[position]
    value = lambda leaf: snapshot.value(leaf, position) if isinstance(leaf, Ref) else leaf  # noqa: E731
    return leaves(op.func(*mapped(op.args, value), **mapped(op.kwargs, value)), Tensor)[0]


def _followed(
    snapshot: Snapshot, way: Pass, part: Part, displaced: Mapping[str, Tensor]
) -> dict[int, Reading]:
    run, found = _Run(snapshot, {name: displaced[name] for name in part.names}), {}
    for position in sorted({*part.steps, *part.cuts}):
        if position > part.cuts[-1]:
            break
        op, cut = snapshot.tape.ops[position], way.cuts.get(position)
        factors = way.products.get(position)
        if cut is not None:
            change = run.product(position, op, factors) if factors else run.halves(cut)
            if change is not None:
                found[position] = change
        run.step(position, op, op.inputs() if factors else [cut])
    return found


class _Run:
    """The twins of one part's tensors."""

    def __init__(self, snapshot: Snapshot, displaced: Mapping[str, Tensor]) -> None:
        self._snapshot = snapshot
        self.twins = {
            index: Twin.straight(
                snapshot.constants[name], functools.partial(_given, displaced[name])
            )
            for index, name in snapshot.tape.names.items()
            if name in displaced
        }

    def halves(self, cut: Ref) -> Even | None:
        """The even part of what a weight reads; None is zero."""
        twin = self.twins.get(cut.index)
        return None if twin is None else twin.halves

    def product(self, position: int, op: Op, factors: tuple[Ref, Ref]) -> Change | None:
        """The change of a product that is read itself; None is zero."""
        if not any(ref.index in self.twins for ref in factors):
            return None
        left, right = (
            self.twins.get(ref.index, self._snapshot.value(ref, position)) for ref in factors
        )
        return split(share_of(op), left, right)

    def step(self, position: int, op: Op, cut: Sequence[Ref | None]) -> None:
        """Carry the twins over one operation; what is read at a cut is held."""
        held = not any(ref not in cut and ref.index in self.twins for ref in op.inputs())
        if held or position in self._snapshot.tape.drawn:
            for ref in op.results():
                self.twins.pop(ref.index, None)
            return

        def value(leaf: Any) -> Any:
            if not isinstance(leaf, Ref):
                return leaf
            twin = self.twins.get(leaf.index) if leaf not in cut else None
            return twin if twin is not None else self._snapshot.value(leaf, position)

        args, kwargs = mapped(op.args, value), mapped(op.kwargs, value)
        base = [self._snapshot.value(ref, position + 1) for ref in op.results()]
        for ref, twin in zip(op.results(), _carried(op, args, kwargs, base), strict=True):
            self.twins[ref.index] = twin


def _given(tensor: Tensor) -> Tensor:
    return tensor


def _carried(op: Op, args: Any, kwargs: Any, base: list[Tensor]) -> list[Twin]:
    """The twins of an operation's results."""
    name = plain_name(op)
    if name == "aten::relu":
        return [rectified(args[0], base[0])]
    rule = rule_of(op, args, kwargs)

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
