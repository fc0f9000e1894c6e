"""Propagate displacements along a tape to every tensor on the way to the readers."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ramify.probe.displaced.components import Component, TargetSet
from ramify.probe.displaced.even import EvenOfCopies, EvenPart, EvenTensor
from ramify.probe.displaced.linear import (
    linear_rule,
    plain_name,
    rescaled_convolution,
    rescaled_norm,
    scaled_convolution,
)
from ramify.probe.displaced.max_pools import MAX_POOL, halved, is_halving
from ramify.probe.displaced.product import ProductChange, alpha_of, product_change
from ramify.probe.displaced.tensor import DisplacedTensor, relu
from ramify.probe.recorded_pass import RecordedPass
from ramify.probe.replay import replay
from ramify.tracing.recorder import Op, Ref, leaves_of_kind, mapped

ReadChange = EvenPart | ProductChange
"""The change of a read."""


def read_changes(
    recorded: RecordedPass,
    together: TargetSet,
    last: Mapping[int, int],
    displacements: Mapping[str, Tensor],
) -> Iterator[dict[int, ReadChange]]:
    """The change of each read; a reader's own output is not displaced by it.

    Args:
        recorded: one batch.
        together: the groups that are followed.
        last: tensor -> the last operation that reads it.
        displacements: producer parameter -> the displacement of the first copy.

    Yields:
        For each component: operation -> Δa, absent where it is zero; differentiable in the
        displacements.
    """
    writes = [write for component in together.components for write in component.writes]
    if any(_seen_elsewhere(recorded, last, *write) for write in writes):
        yield replayed(recorded, together, displacements)
        return
    for component in together.components:
        if component.reads:
            yield _followed(recorded, together, component, displacements)


def _seen_elsewhere(
    recorded: RecordedPass, last: Mapping[int, int], position: int, ref: Ref
) -> bool:
    """Whether an in-place write changes memory that a later operation reads by another tensor."""
    return any(last.get(other, -1) > position for other in recorded.shared(ref))


def replayed(
    recorded: RecordedPass, together: TargetSet, displacements: Mapping[str, Tensor]
) -> dict[int, ReadChange]:
    """The same by running the whole tape for each copy: correct for any in-place writes.

    Args:
        recorded: one batch.
        together: the groups that are followed.
        displacements: producer parameter -> the displacement of the first copy.

    Returns:
        Operation -> Δa.
    """
    plus, minus = (_read_by_copy(recorded, together, displacements, sign) for sign in (1, -1))
    found: dict[int, ReadChange] = {}
    for position, tensors in plus.items():
        op = recorded.tape.ops[position]
        refs = together.products.get(position, (together.reads[position],))
        base = [recorded.value(ref, position) for ref in refs]
        copies = zip(tensors, minus[position], base, strict=True)
        if position not in together.products:
            found[position] = EvenOfCopies(next(copies))
            continue
        factors = [
            DisplacedTensor.of_copies(b, functools.partial(_given, p), functools.partial(_given, m))
            for p, m, b in copies
        ]
        change = product_change(alpha_of(op), *factors)
        if change is not None:
            found[position] = change
    return found


def _read_by_copy(
    recorded: RecordedPass, together: TargetSet, displacements: Mapping[str, Tensor], sign: int
) -> dict[int, list[Tensor]]:
    """The input of each reader in one copy's network: a tensor, or the factors of a product."""
    found: dict[int, list[Tensor]] = {}
    tape, reads = recorded.tape, together.reads

    def before(position: int, args: Any) -> None:
        # A product is represented by its factors.
        if position in together.products:
            op = tape.ops[position]
            given = [args[op.args.index(ref)] for ref in together.products[position]]
            if any(tensor.requires_grad for tensor in given):
                found[position] = [tensor.clone() for tensor in given]

    def at_read(position: int, tensor: Tensor) -> Tensor:
        # Keep what this copy reads; later operations use the unedited network's value.
        if position in together.products:  # the value of a product is not kept
            return _run_again(recorded, position)
        if tensor.requires_grad:
            found[position] = [tensor.clone()]
        return recorded.value(reads[position], position)

    moved = {name: recorded.constants[name] + sign * v for name, v in displacements.items()}
    with torch.enable_grad():
        tensors, end = recorded.constants | moved, max(reads, default=-1)
        replay(tape, tensors, reads, at_read, until=end, before=before)
    return found


def _run_again(recorded: RecordedPass, position: int) -> Tensor:
    """The output of an operation, given its input."""
    op = recorded.tape.ops[position]
    value = lambda leaf: recorded.value(leaf, position) if isinstance(leaf, Ref) else leaf  # noqa: E731
    return leaves_of_kind(op.func(*mapped(op.args, value), **mapped(op.kwargs, value)), Tensor)[0]


def _followed(
    recorded: RecordedPass,
    together: TargetSet,
    component: Component,
    displacements: Mapping[str, Tensor],
) -> dict[int, ReadChange]:
    """The changes of the reads of one component, operation by operation."""
    own = {name: displacements[name] for name in component.names}
    carried, found = _Carried(recorded, own), {}
    for position in sorted({*component.steps, *component.reads}):
        if position > component.reads[-1]:
            break
        op, read = recorded.tape.ops[position], together.reads.get(position)
        factors = together.products.get(position)
        if read is not None:
            change = carried.of_product(position, op, factors) if factors else carried.of_read(read)
            if change is not None:
                found[position] = change
        carried.step(position, op, op.inputs() if factors else [read])
    return found


class _Carried:
    """The displaced tensors of one component, at the current position on the tape."""

    def __init__(self, recorded: RecordedPass, displacements: Mapping[str, Tensor]) -> None:
        self._recorded = recorded
        self._displaced = {
            index: DisplacedTensor.linear(
                recorded.constants[name], functools.partial(_given, displacements[name])
            )
            for index, name in recorded.tape.names.items()
            if name in displacements
        }

    def of_read(self, read: Ref) -> EvenPart | None:
        """The even part of a weight's input; None is zero."""
        displaced = self._displaced.get(read.index)
        return None if displaced is None else displaced.even_part

    def of_product(self, position: int, op: Op, factors: tuple[Ref, Ref]) -> ProductChange | None:
        """The change of a product that is itself read; None is zero."""
        if not any(ref.index in self._displaced for ref in factors):
            return None
        left, right = (
            self._displaced.get(ref.index, self._recorded.value(ref, position)) for ref in factors
        )
        return product_change(alpha_of(op), left, right)

    def step(self, position: int, op: Op, held: Sequence[Ref | None]) -> None:
        """Propagate displacements over one operation, except those of its own read."""
        # Results of random operations, or without displaced arguments, are not displaced.
        still = not any(ref not in held and ref.index in self._displaced for ref in op.inputs())
        if still or position in self._recorded.tape.drawn:
            for ref in op.results():
                self._displaced.pop(ref.index, None)
            return

        def value(leaf: Any) -> Any:
            if not isinstance(leaf, Ref):
                return leaf
            displaced = self._displaced.get(leaf.index) if leaf not in held else None
            return displaced if displaced is not None else self._recorded.value(leaf, position)

        args, kwargs = mapped(op.args, value), mapped(op.kwargs, value)
        base = [self._recorded.value(ref, position + 1) for ref in op.results()]
        for ref, displaced in zip(op.results(), _results(op, args, kwargs, base), strict=True):
            self._displaced[ref.index] = displaced


def _given(tensor: Tensor) -> Tensor:
    return tensor


def _results(op: Op, args: Any, kwargs: Any, base: list[Tensor]) -> list[DisplacedTensor]:
    """An operation's results in the displaced networks."""
    if plain_name(op) == "aten::relu":
        return [relu(args[0], base[0])]
    rule = linear_rule(op, args, kwargs)

    # With a rule, each form of the results follows from the same form of the arguments.
    @functools.cache
    def forms(which: str) -> list[Tensor | None]:
        assert rule is not None
        out = rule(op, args, lambda displaced: displaced.form(which), base[0])
        return list(out) if isinstance(out, (tuple, list)) else [out] * len(base)

    def odd(n: int) -> Any:
        return forms("odd")[n]

    def even(n: int) -> EvenPart | None:
        return EvenTensor.of(forms("even")[n])

    if rule is not None and all(
        displaced.is_linear for displaced in leaves_of_kind(args, DisplacedTensor)
    ):
        linear = [DisplacedTensor.linear(b, functools.partial(odd, n)) for n, b in enumerate(base)]
        linear[0].scaled = scaled_convolution(op, args, base[0])
        return linear

    # Other operations run for each copy; a rule may still give the even part more cheaply.
    run = functools.cache(functools.partial(_run_for_copy, op, args, kwargs))
    normed = rescaled_norm(op, args)

    def copy(which: str, n: int) -> Tensor:
        return run(which)[n] if normed is None or n else normed(which)

    out = [
        DisplacedTensor.of_copies(
            b,
            functools.partial(copy, "plus", n),
            functools.partial(copy, "minus", n),
            functools.partial(even, n) if rule is not None else None,
        )
        for n, b in enumerate(base)
    ]
    out[0].rescaled = rescaled_convolution(op, args)
    if op.name == MAX_POOL and is_halving(args):
        out[0] = halved(args[0], base[0]) or out[0]
    return out


def _run_for_copy(op: Op, args: Any, kwargs: Any, which: str) -> list[Tensor]:
    """Run any operation with the tensors of one copy, `plus` or `minus`."""
    pick = lambda leaf: getattr(leaf, which) if isinstance(leaf, DisplacedTensor) else leaf  # noqa: E731
    own, named = mapped(args, pick), mapped(kwargs, pick)
    if op.is_mutable:  # write into a copy
        own = (own[0].clone(), *own[1:])
    return leaves_of_kind(op.func(*own, **named), Tensor)
