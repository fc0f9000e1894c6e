"""Compares a grown model's run with the original's, operation by operation.

If every axis only gains channels that change nothing (exact copies that share their weight, or
channels of zeros), each tensor must have the predicted shape, and its old channels must keep their
values. The first operation that violates this tells which channels the trace got wrong, even if
a gain of zero leaves the outputs unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ramify.tracing.contraction import Provenance
from ramify.tracing.decisions import Noted
from ramify.tracing.dims import Term, resolve
from ramify.tracing.flow import DimFlow
from ramify.tracing.indexing import Changes, Index, kept_positions, new_size
from ramify.tracing.recorder import Op, Tape

_PRODUCTS = frozenset({"aten::mul", "aten::mul_", "aten::div", "aten::div_"})
"""Operations without cancellation: the rounding error is relative to the result."""


_CONTRACTIONS = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::convolution"})
"""Sums of many terms of either sign, which may be smaller than their inputs by chance."""


def _least(name: str) -> float:
    """The share of its inputs above which a result is not noise, in any precision."""
    return 0.0 if name in _PRODUCTS else 1e-3 if name in _CONTRACTIONS else 0.1


class Mismatch(Exception):
    """The grown run does something that was not predicted."""


@dataclass
class ReferenceRun:
    """One run of the original model: its tape, with the dimensions and norms of its tensors.

    Attributes:
        tape: the operations.
        dims: the dimensions of every tensor, by number.
        provenance: the tensors that are computed only from parameters.
        used: the tensors that another operation reads, or that are outputs.
        norms: for each operation, the norm of each tensor that it returned; None if it is only
            rounding error, which cannot be compared.
        input_norms: for each operation, the largest norm among its inputs.
        decisions: the data-dependent decisions of the run.
    """

    tape: Tape = field(default_factory=Tape)
    dims: Mapping[int, Sequence[Term]] = field(default_factory=dict)
    provenance: Mapping[int, Provenance | None] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    norms: list[list[float | None]] = field(default_factory=list)
    input_norms: list[float] = field(default_factory=list)
    decisions: Noted = field(default_factory=dict)

    def watcher(self) -> Callable[[Op, Sequence[Tensor]], None]:
        """The function that `record` calls after each operation to store the norms."""
        latest: dict[int, float] = {}
        noise: set[int] = set()

        def watch(op: Op, results: Sequence[Tensor]) -> None:
            inputs = [ref.index for ref in op.inputs() if ref.index in latest]
            largest = max((latest[index] for index in inputs), default=0.0)
            only_noise = bool(inputs) and noise.issuperset(inputs)
            product = op.name in _PRODUCTS
            from_noise = product and not noise.isdisjoint(inputs)
            norms: list[float | None] = []
            for ref, tensor in zip(op.results(), results, strict=True):
                value = latest[ref.index] = norm(tensor)
                # A result much smaller than its inputs is the rounding error of a difference.
                rounding = torch.finfo(tensor.dtype).eps if _rounds(tensor) else 0.0
                noise.discard(ref.index)
                small = value <= min(100 * rounding, _least(op.name)) * largest
                if small or from_noise or (only_noise and value <= 1e4 * largest):
                    noise.add(ref.index)
                norms.append(None if ref.index in noise else value)
            self.norms.append(norms)
            self.input_norms.append(largest)

        return watch

    def keep(self, tape: Tape, flow: DimFlow) -> None:
        """Store the dimensions of this tape's tensors; it must be the latest tape of the flow."""
        self.tape, self.dims, self.provenance = tape, flow.tensor_dims, flow.provenance
        self.used = {ref.index for op in tape.ops for ref in op.inputs()}
        self.used |= {ref.index for ref in tape.outputs}


def _rounds(tensor: Tensor) -> bool:
    """Whether a tensor holds real or complex numbers rather than integers."""
    return tensor.is_floating_point() or tensor.is_complex()


def norm(tensor: Tensor) -> float:
    """The Euclidean norm of real or complex numbers; 0 for anything else."""
    if not _rounds(tensor) or tensor.layout is not torch.strided:
        return 0.0
    if tensor.dtype.itemsize == 1:
        tensor = tensor.float()
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float32 if half else None))


class RunComparison:
    """Compares a run with the reference during the run, after changes that only append channels.

    Args:
        reference: the run before the changes.
        changes: the appended channels.
        values: whether old channels must keep their values.
        until: stop successfully once this many operations match the prediction.
        except_at: operations whose values the changes do not keep.
    """

    def __init__(
        self,
        reference: ReferenceRun,
        changes: Changes,
        values: bool,
        until: int | None,
        except_at: Container[int] = (),
    ) -> None:
        self.position = 0
        """The number of operations that matched the prediction."""
        self.aligned = True
        """Whether the run still executes the same operations as before."""
        self.satisfied = False
        """Whether it was stopped successfully at `until`."""
        self.by_value = False
        """Whether the mismatch is in values rather than in a shape."""
        self._reference, self._changes, self._values = reference, changes, values
        self._until, self._except_at = until, except_at
        self._grown_dims: dict[int, tuple[int, Index | None]] = {}

    def __call__(self, op: Op, results: Sequence[Tensor]) -> None:
        """Compare one operation's results with the prediction.

        Raises:
            Mismatch: they differ, or `until` is reached.
        """
        past = self._reference.tape.ops
        if not self.aligned:
            return
        if self.position >= len(past) or past[self.position].name != op.name:
            self.aligned = False
            return
        for number, (ref, tensor) in enumerate(
            zip(past[self.position].results(), results, strict=True)
        ):
            if ref.index not in self._reference.used:
                continue
            terms = self._reference.dims[ref.index]
            if tuple(tensor.shape) != tuple(self._grown(term)[0] for term in terms):
                raise Mismatch
            # The changes scale weights; activations keep the values of old channels.
            kept = self._values and self.position not in self._except_at
            if kept and self._reference.provenance.get(ref.index) is None:
                self._compare(tensor, terms, number)
        self.position += 1
        if self._until is not None and self.position > self._until:
            self.satisfied = True
            raise Mismatch

    def _compare(self, tensor: Tensor, terms: Sequence[Term], number: int) -> None:
        """Compare the norm of the old channels with that of the reference."""
        old = self._reference.norms[self.position][number]
        if old is None or not _rounds(tensor):
            return
        rounding = self._reference.tape.rounding
        for dim, term in enumerate(terms):
            kept = self._grown(term)[1]
            if kept is None:
                continue
            if kept[-1] == len(kept) - 1:  # at the front, in order
                tensor = tensor.narrow(dim, 0, len(kept))
            else:
                tensor = tensor.index_select(dim, torch.from_numpy(kept).to(tensor.device))
        largest = self._reference.input_norms[self.position]
        if self._reference.tape.ops[self.position].name in _PRODUCTS:
            slack = max(1e-3, 3 * rounding) * old
        else:
            slack = max(1e-3, 2 * rounding) * old + 10 * rounding * largest
        new = norm(tensor)
        if abs(new - old) > slack or math.isfinite(new) != math.isfinite(old):
            self.by_value = True
            raise Mismatch

    def _grown(self, term: Term) -> tuple[int, Index | None]:
        """The new size of a dimension, and the positions of its old elements if it grew."""
        known = self._grown_dims.get(id(term))
        if known is None:
            whole = resolve(term)
            size = new_size(whole, self._changes)
            known = size, (kept_positions(whole, self._changes) if size != whole.size else None)
            self._grown_dims[id(term)] = known
        return known


def near_equal(old: Tape, new: Tape, *, repeated: bool = False) -> bool:
    """Whether the outputs of two runs are equal up to rounding.

    Args:
        old: a run.
        new: another run.
        repeated: whether both ran the same operations on the same numbers, so that only the order
            of a device's additions may differ.

    Returns:
        The answer.
    """
    if len(old.results) != len(new.results):
        return False
    slack = min(4 * old.rounding, 1e-6) if repeated else old.rounding**0.5
    return all(near(a, b, slack) for a, b in zip(old.results, new.results, strict=True))


def near(a: Tensor, b: Tensor, slack: float) -> bool:
    """Whether two tensors are equal up to a share of the largest element."""
    if a.shape != b.shape:
        return False
    if not _rounds(a):
        return True
    if a.dtype.itemsize == 1:  # which torch cannot compare
        a, b = a.float(), b.float()
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    size = float(a.abs().nan_to_num(posinf=0.0).max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=slack * (size + 1e-12), equal_nan=True)
