"""Labels: which term each dimension of each tensor of a tape is, and who reads which channels.

One rule per operation (`rules/`) says how dimensions flow and which become equal. An operation
without a rule freezes what goes in, by name: a wrong group is never made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ramify.tracing.attention.producing import MOVES, Makers
from ramify.tracing.dims import (
    UNIT,
    Atom,
    Fixed,
    Term,
    forbid_split,
    freeze,
    leaves,
    mark_inexact,
    resolve,
    unify,
)
from ramify.tracing.recorder import Op, Ref, Tape
from ramify.tracing.sizes import Holder, Use, holders

Rule = Callable[["Labels", Op], None]
RULES: dict[str, Rule] = {}

Key = tuple[str, int, int]
"""Where an atom first lies: tensor name, dimension, and which leaf of that dimension's term."""

# Operations that multiply every entry alike when the other operand is a number.
SCALES = frozenset({"aten::mul", "aten::div", "aten::neg"})


_ELSEWHERE = "a tensor that is no parameter, buffer or input (a constant, a cache)"


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of one or several operations; a second rule for one name raises."""

    def register(function: Rule) -> Rule:
        for name in names:
            if f"aten::{name}" in RULES:
                raise ValueError(f"aten::{name} has a rule already")
            RULES[f"aten::{name}"] = function
        return function

    return register


@dataclass(frozen=True)
class Provenance:
    """The parameters that a tensor was made of alone; `moved`: by moving entries only."""

    names: frozenset[str]
    moved: bool


@dataclass
class Contraction:
    """One read: `weight` sums over channels of `source` and makes the channels `made`.

    Without `names` both are activations.
    """

    tape: Tape = field(repr=False)
    op: int
    source: Ref
    weight: Ref
    names: frozenset[str]
    moved: bool
    read: tuple[Term, ...]
    made: tuple[Term, ...]
    bias_names: frozenset[str] = frozenset()


@dataclass
class Labels:
    """The terms of one model's tapes; parameters keep theirs from run to run."""

    names: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    slots: dict[str, list[Atom]] = field(default_factory=dict)
    contractions: list[Contraction] = field(default_factory=list)
    carried: set[str] = field(default_factory=set)
    sliced: list[Term] = field(default_factory=list)
    attributes: list[tuple[str, str, tuple[Term, ...]]] = field(default_factory=list)
    """(module, attribute, terms) of what ran: the attribute holds these terms' sizes."""
    held: dict[Holder, Term] = field(default_factory=dict)
    """The dimension that the forward makes of an attribute, or of a number in one."""
    reads_data: set[str] = field(default_factory=set)
    """Modules whose Python read a tensor's value: their branches may differ."""
    tape: Tape = field(default_factory=Tape)
    dims: dict[int, list[Term]] = field(default_factory=dict)
    origin: dict[int, Provenance | None] = field(default_factory=dict)
    makers: list[Makers] = field(default_factory=list)
    """The rows behind the activations of the tapes, where they were asked for."""
    history: list[dict[int, list[Term]]] = field(default_factory=list)
    """The terms of every tensor of every tape labelled so far."""
    position: int = 0

    def __post_init__(self) -> None:
        for name, shape in self.names.items():
            self.slots[name] = [Atom(size, (name, dim)) for dim, size in enumerate(shape)]

    # What rules call ------------------------------------------------------------------

    def of(self, ref: Ref) -> list[Term]:
        """The terms of a tensor's dimensions."""
        return self.dims[ref.index]

    def shape(self, ref: Ref) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.tape.shape(ref)

    def give(self, op: Op, *terms: Sequence[Term]) -> None:
        """Label the results of `op`; an in-place result keeps its label, made equal to the new."""
        for ref, new in zip(op.results(), terms, strict=False):
            known = self.dims.get(ref.index)
            if known is None:
                self.dims[ref.index] = list(new)
            else:
                for mine, other in zip(known, new, strict=True):
                    unify(mine, other, self.why(op, "writes in place"))

    def why(self, op: Op, what: str) -> str:
        """A reason that names the operation and the module."""
        where = f"module '{op.module}'" if op.module else "the model's own forward"
        return f"{op.name} in {where} {what}"

    def fixed(self, op: Op, size: int) -> Fixed:
        """A size that this operation decides."""
        return Fixed(size, self.why(op, "decides this size"))

    def freeze_all(self, op: Op, refs: Iterable[Ref], what: str) -> None:
        """Freeze every dimension of these tensors."""
        for ref in refs:
            for term in self.of(ref):
                freeze(term, self.why(op, what))

    def is_weight(self, ref: Ref) -> bool:
        """Whether a tensor is made of parameters and buffers alone."""
        return self.origin.get(ref.index) is not None

    def contract(
        self,
        op: Op,
        one: tuple[Ref, Sequence[Term], Sequence[Term]],
        other: tuple[Ref, Sequence[Term], Sequence[Term]],
        bias: Ref | None = None,
    ) -> None:
        """Note a sum over channels; each side is (tensor, terms summed over, terms that stay)."""
        for mine, theirs in zip(one[1], other[1], strict=True):
            unify(mine, theirs, self.why(op, "sums over them"))
        weighted = [side for side in (other, one) if self.is_weight(side[0])]
        if len(weighted) == 2:
            for term in one[1]:
                mark_inexact(term, self.why(op, "sums weights over them"))
        weight, source = (other, one) if not weighted or weighted[0] is other else (one, other)
        known = self.origin.get(weight[0].index)
        made_of = self.origin.get(bias.index) if bias is not None else None
        self.contractions.append(
            Contraction(
                tape=self.tape,
                op=self.position,
                source=source[0],
                weight=weight[0],
                names=known.names if known else frozenset(),
                moved=bool(known and known.moved and len(weighted) == 1),
                read=tuple(weight[1]),
                made=tuple(weight[2]),
                bias_names=made_of.names if made_of else frozenset(),
            )
        )

    # The pass over a tape -----------------------------------------------------------------

    def run(self, tape: Tape, samples: Atom | None = None, uses: Sequence[Use] = ()) -> None:
        """Label one tape, adding to what is known of the parameters.

        Args:
            tape: what a run executed.
            samples: the first dimension of every input that has one entry for each sample.
            uses: the sizes that the forward took from attributes.
        """
        self.tape, self.dims, self.origin = tape, {}, {}
        self.history.append(self.dims)
        for index, shape in enumerate(tape.shapes):
            name = tape.names.get(index)
            if name is not None:
                self.dims[index] = list(self.slots[name])
                self.origin[index] = Provenance(frozenset([name]), moved=True)
            elif index in tape.inputs or index in tape.constants:
                kind = "the model's input" if index in tape.inputs else _ELSEWHERE
                self.dims[index] = [Fixed(size, f"{kind} has this size") for size in shape]
                if samples is not None and index in tape.inputs and shape[:1] == (samples.size,):
                    self.dims[index][0] = samples
                self.origin[index] = None
        for position, op in enumerate(tape.ops):
            self.position = position
            self._label(op)
        for use in uses:
            self._hold(use)

    def _hold(self, use: Use) -> None:
        """An attribute that gives several dimensions their size makes them one."""
        for holder, term in holders(use.size, self.of(use.ref)[use.dim]):
            (path, name), place = holder
            known = self.held.setdefault(holder, term)
            unify(known, term, f"'{name}' of module '{path}' is the size of both")
            if place is None:
                self.attributes.append((path, name, (term,)))

    def _label(self, op: Op) -> None:
        inputs, results = op.inputs(), op.results()
        if op.name in ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal"):
            self.reads_data.add(op.module)
        function = RULES.get(op.name)
        if function is None and torch.Tag.pointwise in op.func.tags:
            function = RULES["aten::add"]
        if function is not None:
            try:
                function(self, op)
                fits = all(
                    self.shape(ref) == tuple(term.size for term in self.of(ref)) for ref in results
                )
            except (AssertionError, LookupError, TypeError, ValueError):
                fits = False
            if not fits:
                self._freeze_around(op, "was called in a way that its dimension rule does not know")
        elif results:
            self._freeze_around(op, "has no dimension rule")
        made_of = [self.origin.get(ref.index) for ref in inputs]
        weights = [known for known in made_of if known is not None]
        for ref in results:
            if ref.index in self.origin and ref in inputs and self.origin[ref.index] is None:
                continue
            if not weights or len(weights) < len(made_of):
                self.origin[ref.index] = None
                continue
            scaled = op.name in SCALES and len(inputs) == 1
            moved = (op.name in MOVES or scaled) and all(known.moved for known in weights)
            names = frozenset().union(*(known.names for known in weights))
            self.origin[ref.index] = Provenance(names, moved)
        for ref in inputs:
            if ref.index in self.tape.names:
                self.carried.add(self.tape.names[ref.index])

    def _freeze_around(self, op: Op, what: str) -> None:
        self.freeze_all(op, op.inputs(), what)
        for ref in op.results():
            self.dims[ref.index] = [self.fixed(op, n) for n in self.shape(ref)]

    def keep_outputs(self, edit: bool) -> None:
        """The model's outputs keep their shape; with `edit`, they may only lose channels."""
        for ref in self.tape.outputs:
            for term in self.dims.get(ref.index, []):
                (forbid_split if edit else freeze)(term, "it is an output of the model")


def places(labels: Labels) -> dict[Atom, Key]:
    """Every leaf of every parameter and buffer, in order, and where it first lies."""
    found: dict[Atom, Key] = {}
    for name, slot in labels.slots.items():
        for dim, term in enumerate(slot):
            for position, atom in enumerate(leaves(term)):
                found.setdefault(atom, (name, dim, position))
    return found


def broadcast(labels: Labels, op: Op, refs: Sequence[Ref]) -> list[Term]:
    """The terms of what broadcasting these tensors gives; equal sizes become the same term."""
    rank = max((len(labels.shape(ref)) for ref in refs), default=0)
    out: list[Term] = [UNIT] * rank
    for position in range(rank):
        columns = []
        for ref in refs:
            dim = position - rank + len(labels.shape(ref))
            if dim >= 0:
                columns.append(labels.of(ref)[dim])
        size = max((term.size for term in columns), default=1)
        if any(term.size == 0 for term in columns):
            size = 0
        full = [term for term in columns if term.size == size]
        named = [term for term in full if not (size == 1 and isinstance(resolve(term), Fixed))]
        for other in named[1:]:
            unify(named[0], other, labels.why(op, "joins them"))
        for term in columns:
            if term.size != size:
                freeze(term, labels.why(op, f"broadcasts one channel against {size}"))
        out[position] = named[0] if named else (full[0] if full else UNIT)
    return out
