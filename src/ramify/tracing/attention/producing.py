"""Finds the rows of weights that produce an activation, so that scaling them scales it.

If two activations are multiplied and summed over a channel (q·kᵀ), no weight reads the channel and
could take the scale of a copy. But the product is linear in each factor. If only linear operations
are between a factor and the rows of the weights that produce it, these rows can take the scale. So
each element of an activation is followed back to the rows that it is a sum of.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ramify.tracing.contraction import FIRST_FACTOR, MOVES, MULTIPLIES, Contraction, Rows
from ramify.tracing.dims import Term, atoms_of
from ramify.tracing.recorder import Op, Ref, Tape

_KEEPS_PLACES = frozenset(
    f"aten::{name}" for name in ("neg", "_to_copy", "clone", "alias", "detach")
)
_ADDS = frozenset(f"aten::{name}" for name in ("add", "sub", "add_", "sub_"))
_JOINS = frozenset({"aten::cat", "aten::stack"})

RowNumbers = list[Tensor]
"""For each summand, the number of the row behind each element of a tensor, or -1."""


@dataclass
class RowTracer:
    """Follows the activations of one tape back to rows of weights.

    Every row of every weight that occurs gets a number; `_numbers` returns for each element of a
    tensor the numbers of the rows that it is a sum of.

    Args:
        tape: the run.
        param_shapes: the shapes of parameters and buffers.
        param_dims: their dimensions.
        contractions: the tape's sums over channels, by operation.
    """

    tape: Tape
    param_shapes: Mapping[str, tuple[int, ...]]
    param_dims: Mapping[str, Sequence[Term]]
    contractions: Mapping[int, Contraction]
    _places: list[tuple[str, int]] = field(default_factory=list)
    """The numbered rows: (tensor, dimension), in the order of their numbers."""
    _starts: list[int] = field(default_factory=lambda: [0])
    """The number of the first row of each place."""
    _known: dict[tuple[int, int], RowNumbers | None] = field(default_factory=dict)
    _operations: dict[tuple[int, int], frozenset[int]] = field(default_factory=dict)
    _ancestry: list[int] = field(default_factory=list)
    _rows: dict[tuple[int, int], Rows | None] = field(default_factory=dict)
    _reached: dict[Any, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._writers: dict[int, list[int]] = {}
        self._readers: dict[int, list[int]] = {}
        for position, op in enumerate(self.tape.ops):
            for ref in op.inputs():
                self._readers.setdefault(ref.index, []).append(position)
            for ref in op.results():
                self._writers.setdefault(ref.index, []).append(position)

    def rows(self, ref: Ref, position: int) -> Rows | None:
        """The rows that scale the input of an operation if all are scaled equally.

        Args:
            ref: the tensor.
            position: the operation.

        Returns:
            The rows; None if there are none.
        """
        key = self._version(ref, position)
        if key not in self._rows:
            self._rows[key] = self._gathered(self._numbers(ref, position))
        return self._rows[key]

    def _gathered(self, numbers: RowNumbers | None) -> Rows | None:
        """The row numbers that occur in a tensor, as masks of the rows of each weight."""
        if not numbers:
            return None
        found = torch.unique(torch.cat([n.reshape(-1) for n in numbers])).numpy()
        out: Rows = {}
        for place, start in zip(self._places, self._starts, strict=False):
            size = self.param_shapes[place[0]][place[1]]
            mine = found[(found >= start) & (found < start + size)] - start
            if len(mine):
                out[place] = np.zeros(size, dtype=bool)
                out[place][mine] = True
        return out

    def between(self, ref: Ref, position: int) -> frozenset[int]:
        """The operations between an activation and the rows that produce it."""
        self._numbers(ref, position)
        return self._operations.get(self._version(ref, position), frozenset())

    def reach_only(self, rows: Rows, operands: set[tuple[int, int]]) -> bool:
        """Whether these rows only affect the given operands.

        Args:
            rows: the rows to scale.
            operands: the (operation, tensor) pairs that should be scaled.

        Returns:
            Whether scaling the rows scales these operands and changes nothing else.
        """
        masks = frozenset((place, mask.tobytes()) for place, mask in rows.items())
        key = masks, frozenset(operands)
        if key not in self._reached:
            self._reached[key] = self._reaches_only(rows, operands)
        return self._reached[key]

    def _reaches_only(self, rows: Rows, operands: set[tuple[int, int]]) -> bool:
        names = {name for name, _ in rows}
        weights = {index for index, name in self.tape.names.items() if name in names}
        # Forward over the tape: which tensors would change if the rows were scaled?
        changed: set[int] = set()
        waiting: list[int] = []  # a heap of the operations that read changed tensors
        queued: set[int] = set()

        def change(indices: Iterable[int], since: int) -> None:
            for index in set(indices) - changed:
                changed.add(index)
                for at in self._readers.get(index, ()):
                    if at > since and at not in queued:
                        queued.add(at)
                        heapq.heappush(waiting, at)

        change(weights, -1)
        while waiting:
            position = heapq.heappop(waiting)
            op = self.tape.ops[position]
            inputs = {ref.index for ref in op.inputs() if ref.index in changed}
            inputs -= {index for at, index in operands if at == position}
            if not inputs:
                continue
            # A weight whose elements are moved is still that weight.
            if inputs <= weights and self._moves(op):
                moved = {ref.index for ref in op.results()}
                weights |= moved
                change(moved, position)
                continue
            # Another layer reads what the rows produce, and would change.
            read = self.contractions.get(position)
            if read is not None and read.source.index in inputs - weights:
                return False
            # Only result elements that depend on these rows change; if that is unknown, all
            # may change.
            made = [self._numbers(ref, position + 1) for ref in op.results()]
            met = [self._made_of(numbers, rows) for numbers in made]
            if not any(met) and None in made and not self._moves(op):
                return False
            mets = zip(op.results(), met, strict=True)
            change((ref.index for ref, mine in mets if mine), position)
        return changed.isdisjoint(ref.index for ref in self.tape.outputs)

    def independent(self, ref: Ref, position: int, rows: Rows) -> bool:
        """Whether the input of an operation stays unchanged when rows are scaled.

        Args:
            ref: the input.
            position: the operation.
            rows: the rows that are scaled.

        Returns:
            The answer; also False if it is unknown.
        """
        numbers = self._numbers(ref, position)
        if numbers is not None:
            return not self._made_of(numbers, rows)
        return not self._ancestors(ref) & self._bits_of({name for name, _ in rows})

    # One tensor ---------------------------------------------------------------------------

    def _version(self, ref: Ref, before: int) -> tuple[int, int]:
        """A tensor, with the last operation before another one that wrote to it."""
        wrote = [p for p in self._writers.get(ref.index, ()) if p < before]
        return ref.index, wrote[-1] if wrote else -1

    def _numbers(self, ref: Ref, before: int) -> RowNumbers | None:
        """The rows behind each element of a tensor; None if it is not a sum of rows."""
        key = self._version(ref, before)
        if key not in self._known:
            self._known[key] = None
            # The rows of a vector that no operation computed, such as a bias, are its elements.
            name = self.tape.names.get(ref.index)
            if key[1] < 0 and name is not None and len(self.param_shapes[name]) == 1:
                self._known[key] = [self._number_rows(name, 0)]
            if key[1] >= 0:
                self._known[key] = self._made(ref, key[1])
                inputs = self.tape.ops[key[1]].inputs()
                before_it = [self._version(r, key[1]) for r in inputs]
                steps = [self._operations.get(version, frozenset()) for version in before_it]
                self._operations[key] = frozenset({key[1]}).union(*steps)
        return self._known[key]

    def _made(self, ref: Ref, position: int) -> RowNumbers | None:
        """The rows behind the result of one operation, by the kind of operation."""
        op = self.tape.ops[position]
        read = self.contractions.get(position)
        if read is not None:
            return self._contracted(op, read) if read.names else None
        name = op.name
        if self._moves(op):
            return self._moved(op, ref, position)
        if name in MULTIPLIES:
            return self._multiplied(op, ref, position)
        if name in _ADDS:
            return self._added(op, ref, position)
        return self._joined(op, position) if name in _JOINS else None

    def _moved(self, op: Op, ref: Ref, position: int) -> RowNumbers | None:
        """The rows after moving elements: the same operation is applied to the row numbers."""
        numbers = self._numbers(op.args[0], position)
        if numbers is None or op.name in _KEEPS_PLACES:
            return numbers
        place = op.results().index(ref)
        return [self._move(op, each, place) for each in numbers]

    def _move(self, op: Op, numbers: Tensor, place: int) -> Tensor:
        if op.name in ("aten::view", "aten::_unsafe_view"):  # the row numbers have other strides
            return numbers.reshape(self.tape.shape(op.results()[place]))
        return tree_leaves(op.func(numbers, *op.args[1:], **op.kwargs))[place]

    def _multiplied(self, op: Op, ref: Ref, position: int) -> RowNumbers | None:
        """The rows of a product, linear in one factor if the other has other weights only."""
        one, other = op.args[:2]
        both = [self._numbers(x, position) if isinstance(x, Ref) else None for x in (one, other)]
        for numbers, factor in ((both[0], other), (both[1], one)):
            divides = op.name.startswith("aten::div") and factor is one
            if numbers is None or divides:
                continue
            if isinstance(factor, Ref) and self._depends(factor, numbers):
                return None
            return [n.expand(self.tape.shape(ref)) for n in numbers]
        return None

    def _added(self, op: Op, ref: Ref, position: int) -> RowNumbers | None:
        """The rows of a sum: those of both summands."""
        out: RowNumbers = []
        for term in op.args[:2]:
            if not isinstance(term, Ref):
                return None
            numbers = self._numbers(term, position)
            if numbers is None:
                return None
            out += [n.expand(self.tape.shape(ref)) for n in numbers]
        return out

    def _joined(self, op: Op, position: int) -> RowNumbers | None:
        """The rows of joined tensors; those of pieces with fewer summands are padded with -1."""
        held = [ref for ref in op.args[0] if 0 not in self.tape.shape(ref)]  # an empty cache
        pieces = [self._numbers(ref, position) for ref in held]
        if not held or any(piece is None for piece in pieces):
            return None
        whole = [piece for piece in pieces if piece is not None]
        count = max(map(len, whole))
        filled = [
            [piece[n] if n < len(piece) else torch.full_like(piece[0], -1) for piece in whole]
            for n in range(count)
        ]
        return [op.func(each, *op.args[1:], **op.kwargs) for each in filled]

    def _contracted(self, op: Op, read: Contraction) -> RowNumbers | None:
        """The rows of a layer's result, which is linear in its weight and bias together."""
        shape = self.tape.shape(op.results()[0])
        weight = self._rows_of(read.weight, read)
        if weight is None:
            return None
        # The rows of the weight, in a shape that broadcasts against the result.
        if op.name in FIRST_FACTOR and len(shape) > 1:
            if op.args[FIRST_FACTOR[op.name] + 1] == read.weight:
                line = weight.select(-2, 0).unsqueeze(-2)
            else:
                line = weight.select(-1, 0).unsqueeze(-1)
        elif op.name in ("aten::linear", "aten::embedding"):
            line = weight.select(1 if op.name == "aten::linear" else 0, 0)
        elif op.name == "aten::convolution" and not op.args[6]:
            line = weight.flatten(1)[:, 0].view(-1, *([1] * (len(shape) - 2)))
        else:
            return None
        # The bias, if the operation adds one.
        bias = op.args[0] if FIRST_FACTOR.get(op.name) else (*op.args, None, None, None)[2]
        if op.name in ("aten::mm", "aten::bmm", "aten::embedding") or not isinstance(bias, Ref):
            return [line.expand(shape)]
        added = self._numbers(bias, read.op)
        if added is None:
            return None
        if op.name == "aten::convolution":
            added = [each.view(-1, *([1] * (len(shape) - 2))) for each in added]
        return [line.expand(shape), *(each.expand(shape) for each in added)]

    def _rows_of(self, ref: Ref, read: Contraction) -> Tensor | None:
        """The row of each element of a weight that is a parameter, possibly with moved elements."""
        name = self.tape.names.get(ref.index)
        if name is not None:
            made = atoms_of(read.made)
            dims = [d for d, term in enumerate(self.param_dims[name]) if atoms_of([term]) & made]
            if not dims:
                return None
            shape = self.tape.shape(ref)
            rows = self._number_rows(name, dims[-1])  # the heads may precede it
            return rows.view([-1 if d == dims[-1] else 1 for d in range(len(shape))]).expand(shape)
        wrote = self._writers.get(ref.index, [])
        if len(wrote) != 1:
            return None
        op = self.tape.ops[wrote[0]]
        if op.name in _KEEPS_PLACES:
            return self._rows_of(op.args[0], read)
        if not self._moves(op):
            return None
        rows_before = self._rows_of(op.args[0], read)
        if rows_before is None:
            return None
        return self._move(op, rows_before, op.results().index(ref))

    def _number_rows(self, name: str, dim: int) -> Tensor:
        """The numbers of the rows of a tensor along one dimension, assigned on the first call."""
        if (name, dim) not in self._places:
            self._places.append((name, dim))
            self._starts.append(self._starts[-1] + self.param_shapes[name][dim])
        start = self._starts[self._places.index((name, dim))]
        return torch.arange(start, start + self.param_shapes[name][dim])

    # Dependencies -------------------------------------------------------------------------

    def _depends(self, ref: Ref, numbers: Sequence[Tensor]) -> bool:
        """Whether another factor depends on the same weights."""
        names = set()
        for place, start in zip(self._places, self._starts, strict=False):
            end = start + self.param_shapes[place[0]][place[1]]
            if any(bool(((n >= start) & (n < end)).any()) for n in numbers):
                names.add(place[0])
        return bool(self._ancestors(ref) & self._bits_of(names))

    def _bits_of(self, names: set[str]) -> int:
        return sum(1 << n for n, name in enumerate(self.param_shapes) if name in names)

    def _ancestors(self, ref: Ref) -> int:
        """The parameters that a tensor depends on, as bits of an integer."""
        if not self._ancestry:
            self._ancestry = [0] * len(self.tape.shapes)
            for index, name in self.tape.names.items():
                self._ancestry[index] = self._bits_of({name})
            for op in self.tape.ops:
                of = 0
                for each in op.inputs():
                    of |= self._ancestry[each.index]
                for each in op.results():
                    self._ancestry[each.index] |= of
        return self._ancestry[ref.index]

    def _moves(self, op: Op) -> bool:
        """Whether an operation only moves elements."""
        return (op.name in MOVES or op.name in _KEEPS_PLACES) and op.name not in _JOINS

    def _made_of(self, numbers: Sequence[Tensor] | None, rows: Rows) -> bool:
        """Whether any element depends on one of the rows."""
        if numbers is None:
            return False
        wanted = torch.zeros(self._starts[-1] + 1, dtype=torch.bool)
        for place, mask in rows.items():
            start = self._starts[self._places.index(place)]
            wanted[start : start + len(mask)] = torch.from_numpy(mask)
        return any(bool(wanted[n].any()) for n in numbers)
