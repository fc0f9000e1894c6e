"""A random network as a list of steps, from which it is built at any widths."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.fuzz_edits.axes import (
    Axis,
    Beside,
    Dim,
    Dims,
    Each,
    Fixed,
    Members,
    Sizes,
    Term,
    axes_of,
    size,
)

MAP, LINE, VOLUME, SEQUENCE, VECTOR = "map", "line", "volume", "sequence", "vector"
TOKENS, LENGTH, WIDEST = 11, 5, 96


class Unfit(Exception):
    """A step cannot use this value, so another one is drawn."""


class Value(NamedTuple):
    """A result of a step.

    Attributes:
        term: its channels.
        kind: (N, C, H, W), (N, C, L), (N, C, D, H, W), (N, L, C) or (N, C).
        tensor: its value in a run of the network as drawn.
    """

    term: Term
    kind: str
    tensor: Tensor

    @property
    def extent(self) -> tuple[int, ...]:
        """Its sizes without samples and channels."""
        shape = tuple(self.tensor.shape)
        return shape[1:-1] if self.kind == SEQUENCE else shape[2:]


@dataclass
class Step:
    """One module of the network.

    Attributes:
        make: builds the module at given widths.
        reads: the numbers of its input values.
        dims: the dimensions of its parameters and buffers.
        name: its name in the network.
        again: whether it is a second call of an earlier step's module.
        tied: (its parameter, the name of the network's parameter to which it is tied).
    """

    make: Callable[[Sizes], nn.Module]
    reads: tuple[int, ...]
    dims: Dims
    name: str
    again: bool = False
    tied: tuple[str, str] | None = None


class Net(nn.Module):
    """The network: its modules in sequence, each applied to earlier results."""

    def __init__(self, program: Program, sizes: Sizes) -> None:
        super().__init__()
        self.plan = [(step.name, step.reads) for step in program.steps]
        self.outputs, self.named = tuple(program.outputs), program.named
        for step in program.steps:
            if not step.again:
                self.add_module(step.name, step.make(sizes))
            if step.tied is not None:
                own, other = step.tied
                shared = self.get_parameter(other)
                setattr(self.get_submodule(step.name), own, shared)

    def forward(self, *inputs: Tensor) -> Any:
        """One tensor, or several in a tuple or dictionary."""
        values = list(inputs)
        for name, reads in self.plan:
            found = getattr(self, name)(*(values[number] for number in reads))
            values.extend(found if isinstance(found, tuple) else (found,))
        found = tuple(values[number] for number in self.outputs)
        if self.named:
            return {f"of {number}": value for number, value in enumerate(found)}
        return found if len(found) > 1 else found[0]


@dataclass
class Program:
    """A network that is being drawn.

    Attributes:
        draw: the random generator.
        values: the available values: the inputs, and the results of each step.
        steps: its modules in order.
        outputs: the numbers of the values that it returns.
        unread: the numbers of the values that no step has read yet.
        any_extent: whether images and sequences may have sizes other than in the trace.
        named: whether it returns a dictionary.
        shapes: kind and sizes of each input, without the samples.
    """

    draw: random.Random
    values: list[Value] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    unread: list[int] = field(default_factory=list)
    any_extent: bool = True
    named: bool = False
    shapes: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    def input(self, kind: str, channels: int, extent: tuple[int, ...]) -> int:
        """Add an input to the network, and return its number."""
        shape = (*extent, channels) if kind == SEQUENCE else (channels, *extent)
        self.shapes.append((kind, shape if channels else extent))
        term = Fixed(channels)
        self.values.append(Value(term, kind if channels else "tokens", self.sample(2)[-1]))
        self.unread.append(len(self.values) - 1)
        return len(self.values) - 1

    def sample(self, samples: int, more: int = 0) -> tuple[Tensor, ...]:
        """Inputs of the network with this many samples, each extent larger by `more`."""
        found = []
        for kind, shape in self.shapes:
            if kind == "tokens":
                found.append(torch.randint(0, TOKENS, (samples, *(n + more for n in shape))))
                continue
            at = len(shape) - 1 if kind == SEQUENCE else 0
            sizes = [n if place == at else n + more for place, n in enumerate(shape)]
            found.append(torch.randn(samples, *sizes, dtype=torch.float64))
        return tuple(found)

    def add(
        self,
        make: Callable[[Sizes], nn.Module],
        reads: Sequence[int],
        gives: Sequence[tuple[Term, str]],
        dims: Mapping[str, Sequence[Dim | int]] | None = None,
        **more: Any,
    ) -> list[int]:
        """Add a step, run it, and record its results.

        Args:
            make: builds its module at given widths.
            reads: the numbers of its inputs.
            gives: the channels and the kind of each result.
            dims: the dimensions of its parameters and buffers; a number is a fixed dimension.
            **more: `again`, `name` and `tied` of the step.

        Returns:
            The numbers of the results.

        Raises:
            Unfit: the module does not accept values of this extent.
        """
        whole = {
            name: tuple(Dim(Fixed(d)) if isinstance(d, int) else d for d in found)
            for name, found in (dims or {}).items()
        }
        module = make(partial(size, members={})).double()
        with torch.no_grad():
            try:
                found = module(*(self.values[number].tensor.clone() for number in reads))
            except ValueError as error:  # a norm over one pixel
                raise Unfit from error
        tensors = found if isinstance(found, tuple) else (found,)
        name = more.pop("name", "") or f"{type(module).__name__.lower()}{len(self.steps)}"
        step = Step(make, tuple(reads), whole, name, **more)
        first = len(self.values)
        for tensor, (term, kind) in zip(tensors, gives, strict=True):
            wide = tensor.shape[-1 if kind == SEQUENCE else 1]
            assert wide == size(term, {}), (name, tensor.shape, size(term, {}))
            self.values.append(Value(term, kind, tensor))
        self.steps.append(step)
        new = list(range(first, len(self.values)))
        self.unread = [n for n in self.unread if n not in reads] + new
        return new

    def axis(self, least: int = 2, most: int = 7) -> Axis:
        """A new axis of a random width."""
        return Axis(self.draw.randint(least, most))

    def chance(self, share: float) -> bool:
        """True with this probability."""
        return self.draw.random() < share

    def alike(self, number: int, term: bool = False) -> list[int]:
        """The values with the same kind and extent as one, optionally also the same channels."""
        one = self.values[number]
        return [
            n
            for n, v in enumerate(self.values)
            if (v.kind, v.extent) == (one.kind, one.extent) and (not term or v.term is one.term)
        ]

    def in_groups(self, term: Term) -> tuple[Axis, Term]:
        """Channels as groups and the channels within each.

        Args:
            term: the channels.

        Returns:
            The groups, and what is in each.

        Raises:
            Unfit: the channels do not consist of groups.
        """
        if isinstance(term, Axis) and not term.parts:
            numbers = [n for n in range(2, term.width) if term.width % n == 0]
            if not numbers:
                raise Unfit
            first = self.draw.choice(numbers)
            term.parts = (Axis(first), Axis(term.width // first))
            for part in term.parts:
                part.mixed, part.paired = term.mixed, term.paired
        parts = () if isinstance(term, Fixed) else term.parts
        beside = isinstance(term, Beside) or (isinstance(term, Axis) and term.side_by_side)
        if not parts or beside or not isinstance(parts[0], Axis) or parts[0].parts:
            raise Unfit
        return parts[0], parts[1] if len(parts) == 2 else Each(parts[1:])

    def build(self, members: Members) -> Net:
        """The network at other widths, newly initialised."""
        return Net(self, partial(size, members=members)).double()

    def dims(self) -> dict[str, tuple[Dim, ...]]:
        """The dimensions of every parameter and buffer, by its name in the network."""
        return {
            f"{step.name}.{name}": found
            for step in self.steps
            if not step.again
            for name, found in step.dims.items()
        }


def mixes(term: Term) -> None:
    """Record that something depends on the number of channels."""
    for axis in axes_of(term):
        axis.mixed = True


def both_ways(out: Term, into: Term) -> None:
    """Record the axes that one weight both produces and reads."""
    for axis in set(axes_of(out)) & set(axes_of(into)):
        axis.paired = True
