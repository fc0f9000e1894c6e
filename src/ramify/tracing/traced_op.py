"""The argument of a dimension rule: one operation of a run, and the dimensions of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ramify.errors import module_in_words
from ramify.tracing import dims
from ramify.tracing.contraction import Contraction
from ramify.tracing.dims import UNIT, Fixed, Term, resolve
from ramify.tracing.flow import DimFlow
from ramify.tracing.recorder import Op, Ref, Tape

Side = tuple[Ref, Sequence[Term], Sequence[Term]]
"""One factor of a contraction: (tensor, its dimensions summed over, its dimensions that stay)."""


class TracedOp:
    """One operation of the traced run, as its dimension rule sees it.

    A rule reads the dimensions of the inputs (`dims`), declares constraints on them (`tie`,
    `freeze`, `forbid_split`, `mark_inexact`, `contract`), and sets the dimensions of the results
    (`give`). Tensors are represented in `args` and `kwargs` by references, which `dims`, `shape`
    and `dtype` take.

    Attributes:
        name: the operation's name, such as `aten::add`, or that of the operation it acts like.
        args: the positional arguments.
        kwargs: the arguments by name.
        module: the module that ran it.
        position: its number on the tape.
    """

    def __init__(self, flow: DimFlow, op: Op, position: int, acts_as: str | None = None) -> None:
        self.name = acts_as or op.name
        self.args, self.kwargs, self.module = op.args, op.kwargs, op.module
        self.position = position
        self._flow, self._op = flow, op

    # Inputs and results -------------------------------------------------------------------

    def inputs(self) -> list[Ref]:
        """The tensors that the operation reads, in order of its arguments."""
        return self._op.inputs()

    def results(self) -> list[Ref]:
        """The tensors that the operation returns, in order."""
        return self._op.results()

    def named(self) -> dict[str, Any]:
        """The arguments by name, without those left at their defaults."""
        return self._op.named()

    def argument(self, index: int, name: str, default: Any) -> Any:
        """An argument by position or name."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    def dims(self, tensor: Ref) -> list[Term]:
        """The dimensions of a tensor, one term each; `term.size` is its size."""
        return self._flow.dims(tensor)

    def shape(self, tensor: Ref) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._flow.tape.shape(tensor)

    def dtype(self, tensor: Ref) -> torch.dtype:
        """The dtype of a tensor."""
        return self._flow.tape.dtypes[tensor.index]

    def is_weight(self, tensor: Ref) -> bool:
        """Whether a tensor is computed from parameters and buffers only."""
        return self._flow.is_weight(tensor)

    @property
    def tape(self) -> Tape:
        """The run so far, for a rule that depends on earlier operations."""
        return self._flow.tape

    # Declarations -------------------------------------------------------------------------

    def give(self, *terms: Sequence[Term]) -> None:
        """Set the dimensions of each result, in order.

        A result that existed before (of an in-place operation) keeps its dimensions, which are tied
        to these.

        Raises:
            ValueError: More dimensions than results are given.
        """
        if len(terms) > len(self.results()):
            raise ValueError(
                f"it gave dimensions for {len(terms)} results, where there are "
                f"{len(self.results())}"
            )
        for ref, new in zip(self.results(), terms, strict=False):
            known = self._flow.tensor_dims.get(ref.index)
            if known is None:
                self._flow.tensor_dims[ref.index] = list(new)
            else:
                for mine, other in zip(known, new, strict=True):
                    self.tie(mine, other, "writes in place")

    def replace(self, tensor: Ref, terms: Sequence[Term]) -> None:
        """Set the dimensions of one result, replacing any earlier ones."""
        self._flow.tensor_dims[tensor.index] = list(terms)

    def fixed(self, size: int, what: str = "decides this size") -> Fixed:
        """A dimension whose size no edit may change."""
        return Fixed(size, self.reason(what))

    def tie(self, one: Term, other: Term, what: str) -> None:
        """Make two dimensions the same: channel i of one is channel i of the other."""
        dims.unify(one, other, self.reason(what))

    def freeze(self, terms: Term | Iterable[Term], what: str) -> None:
        """Forbid all edits of these dimensions."""
        for term in _each(terms):
            dims.freeze(term, self.reason(what))

    def forbid_split(self, terms: Term | Iterable[Term], what: str) -> None:
        """Allow removal of channels in these dimensions, but no copies, which change the output."""
        for term in _each(terms):
            dims.forbid_split(term, self.reason(what))

    def mark_inexact(self, terms: Term | Iterable[Term], what: str) -> None:
        """Declare that removing a channel of these dimensions does not equal setting it to zero."""
        for term in _each(terms):
            dims.mark_inexact(term, self.reason(what))

    def rank(self, term: Term, what: str, least: int = 1) -> None:
        """Declare that the channels of this dimension compete and at least `least` must stay."""
        dims.mark_ranked(term, self.reason(what), least)

    def number(self, tensor: Ref, term: Term) -> None:
        """Declare that the values of a result are indices along a dimension."""
        if not isinstance(resolve(term), Fixed):
            self._flow.numbers[tensor.index] = term

    def numbers(self, tensor: Ref) -> Term | None:
        """The dimension that the values of a tensor index; None if they are not indices."""
        return self._flow.numbers.get(tensor.index)

    def looks_up(self, tensor: Ref, term: Term, numbers: Ref | Term | None) -> bool:
        """Declare that entries of a tensor are selected along a dimension by index.

        Args:
            tensor: the tensor.
            term: the dimension.
            numbers: the tensor that holds the indices, or the dimension that they index.

        Returns:
            Whether they are indices of this dimension, which then need not be frozen.
        """
        if isinstance(numbers, Ref):
            numbers = self.numbers(numbers)
        if numbers is None:
            return False
        self.tie_heads(term, numbers)
        if self.is_weight(tensor):
            self._flow.looked_up.append(term)
        return True

    def tie_heads(self, one: Term, other: Term) -> None:
        """Tie the first positions of two dimensions, as many as the shorter one has."""
        size = min(one.size, other.size)
        heads = []
        for term in (one, other):
            cut = dims.split(term, size) if term.size > size else (term, term)
            if cut is None:
                self.freeze([one, other], "counts other positions than there are")
                return
            self.freeze(cut[1] if term.size > size else UNIT, "has a place for no position")
            heads.append(cut[0])
        self.tie(heads[0], heads[1], "looks them up by number")

    def number_read(self, value: Any) -> Term | None:
        """The dimension indexed by a number that Python just read from a tensor; else None."""
        known = self._flow.number_read
        if known is None or known[0] != self.position - 1 or known[2] != value:
            return None
        return known[1]

    def in_blocks(self, *terms: Term) -> None:
        """Declare that the sizes of these dimensions are whole memory blocks (see `grouped`)."""
        self._flow.in_blocks.append((self.module, terms))

    def freeze_tensors(self, tensors: Iterable[Ref], what: str) -> None:
        """Forbid all edits of the dimensions of these tensors."""
        for tensor in tensors:
            self.freeze(self.dims(tensor), what)

    def reason(self, what: str) -> str:
        """A reason that names the operation and the module."""
        where = module_in_words(self.module)
        return f"{self._op.name} in {where} {what}"

    def holds_size(self, attribute: str, *terms: Term) -> None:
        """Declare that an attribute of the running module holds the sizes of dimensions."""
        self._flow.sized_attributes.append((self.module, attribute, terms))

    def note_slice(self, term: Term) -> None:
        """Record that a dimension is about to be cut into ranges."""
        self._flow.sliced.append(term)

    def contract(self, one: Side, other: Side, bias: Ref | None = None) -> None:
        """Record a sum over channels.

        Args:
            one: a factor: (tensor, its dimensions summed over, its dimensions that stay).
            other: the other factor, with as many dimensions summed over.
            bias: the bias that is added.
        """
        for mine, theirs in zip(one[1], other[1], strict=True):
            self.tie(mine, theirs, "sums over them")
        weighted = [side for side in (other, one) if self.is_weight(side[0])]
        if len(weighted) == 2:
            self.mark_inexact(one[1], "sums weights over them")
        weight, source = (other, one) if not weighted or weighted[0] is other else (one, other)
        provenance = self._flow.provenance
        known = provenance.get(weight[0].index)
        made_of = provenance.get(bias.index) if bias is not None else None
        self._flow.contractions.append(
            Contraction(
                tape=self._flow.tape,
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

    def broadcast(self, tensors: Sequence[Ref]) -> list[Term]:
        """The dimensions of the broadcast result of these tensors; equal sizes are tied."""
        rank = max((len(self.shape(ref)) for ref in tensors), default=0)
        out: list[Term] = [UNIT] * rank
        for position in range(rank):
            # The term of each tensor at this position, counted from the last dimension.
            column = []
            for ref in tensors:
                dim = position - rank + len(self.shape(ref))
                if dim >= 0:
                    column.append(self.dims(ref)[dim])
            size = max((term.size for term in column), default=1)
            if any(term.size == 0 for term in column):
                size = 0
            # Dimensions of full size are tied; plain ones of size 1 are expanded.
            full = [term for term in column if term.size == size]
            named = [term for term in full if not (size == 1 and isinstance(resolve(term), Fixed))]
            for other in named[1:]:
                self.tie(named[0], other, "joins them")
            for term in column:
                if term.size != size:
                    self.freeze(term, f"broadcasts one channel against {size}")
            out[position] = named[0] if named else (full[0] if full else UNIT)
        return out


def _each(terms: Term | Iterable[Term]) -> Iterable[Term]:
    return [terms] if isinstance(terms, Term) else terms
